"""A tiny transformer whose every weight counts, and histories for it."""

from collections.abc import Callable

import pytest
import torch

from models.history import History
from models.transformer import TransformerSettings, WorldTransformer
from worldsim.presets import tiny


def fill(model: torch.nn.Module, seed: int = 0) -> None:
    """Fresh weights make velocity zero whatever the input, because some layers begin at zero.

    Convolutions sum over nine cells: smaller steps keep the velocity near one.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.05 if parameter.ndim == 4 else 0.2
            parameter += scale * torch.randn(parameter.shape, generator=generator)


def make_transformer(settings: TransformerSettings, seed: int = 0) -> WorldTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WorldTransformer.of(settings)
    fill(model, seed)
    return model.eval().requires_grad_(False)


def make_history(
    batch: int = 2,
    recent: int = 22,
    recalled: int = 4,
    present: int = 22,
    found: int = 4,
    section: int = 1,
    seed: int = 0,
) -> History:
    """Random latents; the newest `present` recent frames and the first `found` recalled ones exist."""
    generator = torch.Generator().manual_seed(seed)
    exists, picked = torch.arange(recent) >= recent - present, torch.arange(recalled) < found
    return History(
        recent=torch.randn(batch, recent, 4, 12, 16, generator=generator) * exists.view(1, -1, 1, 1, 1),
        recent_present=exists.expand(batch, -1),
        recent_actions=torch.randint(3, (batch, recent, 3), generator=generator) * exists.view(1, -1, 1),
        recalled=torch.randn(batch, recalled, 4, 12, 16, generator=generator) * picked.view(1, -1, 1, 1, 1),
        recalled_present=picked.expand(batch, -1),
        recalled_ages=torch.randint(23, 900, (batch, recalled), generator=generator),
        recent_poses=200 * torch.rand(batch, recent, 3, generator=generator),
        recalled_poses=200 * torch.rand(batch, recalled, 3, generator=generator),
        section_poses=200 * torch.rand(batch, section, 3, generator=generator),
        sigma=torch.rand(batch, generator=generator) * 0.5,
    )


@pytest.fixture(scope="session")
def filled_transformer() -> WorldTransformer:
    return make_transformer(tiny().transformer)


@pytest.fixture
def transformer_of() -> Callable[..., WorldTransformer]:
    return make_transformer


@pytest.fixture
def a_history() -> Callable[..., History]:
    return make_history
