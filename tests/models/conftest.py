"""A tiny transformer whose every weight counts, and histories for it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.history import AgedFrames, History
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
    first: int = 0,
    tail: int = 0,
    ranked: int = 0,
    coming: int = 0,
    last: int = 0,
    seed: int = 0,
) -> History:
    """Random latents; the newest `present` recent frames and the first `found` recalled ones exist."""
    generator = torch.Generator().manual_seed(seed)
    exists, picked = torch.arange(recent) >= recent - present, torch.arange(recalled) < found

    def frames(count: int, there: Tensor | None = None, side: int = 12) -> AgedFrames:
        there = torch.ones(count, dtype=torch.bool) if there is None else there
        size = (batch, count, 4, side, 16 if side == 12 else side)
        return AgedFrames(
            latents=torch.randn(size, generator=generator) * there.view(1, -1, 1, 1, 1),
            present=there.expand(batch, -1),
            ages=torch.randint(23, 900, (batch, count), generator=generator),
            poses=200 * torch.rand(batch, count, 3, generator=generator),
        )

    return History(
        recent=torch.randn(batch, recent, 4, 12, 16, generator=generator) * exists.view(1, -1, 1, 1, 1),
        recent_present=exists.expand(batch, -1),
        recent_actions=torch.randint(3, (batch, recent, 3), generator=generator) * exists.view(1, -1, 1),
        recent_poses=200 * torch.rand(batch, recent, 3, generator=generator),
        recalled=frames(recalled, picked),
        first=frames(first),
        tail=frames(tail, side=1),
        section_poses=200 * torch.rand(batch, section, 3, generator=generator),
        sigma=torch.rand(batch, generator=generator) * 0.5,
        ranked=frames(ranked),
        coming=frames(coming),
        coming_actions=torch.randint(3, (batch, coming, 3), generator=generator),
        last=frames(last),
        gap=torch.zeros(batch, dtype=torch.int64),
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
