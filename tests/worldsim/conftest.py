"""Tiny world models with random weights that all count."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.build import build_models, random_openings
from worldsim.checkpoint import WorldModels
from worldsim.presets import Preset, tiny

MAZE_ACTIONS = ActionSpace(
    (
        ActionFactor(name="move", choices=("none", "forward", "back"), keys=(("w",), ("s",))),
        ActionFactor(name="turn", choices=("none", "left", "right"), keys=(("left",), ("right",))),
        ActionFactor(name="strafe", choices=("none", "left", "right"), keys=(("a",), ("d",))),
    )
)


def make_models(preset: Preset | None = None, seed: int = 0) -> WorldModels:
    """Fresh transformers make the same velocity whatever the history, because some layers begin at zero."""
    models = build_models(preset or tiny(), MAZE_ACTIONS, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in models.transformer.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    models.openings = random_openings(models, count=5, frames=8)
    return models


@pytest.fixture(scope="session")
def tiny_models() -> WorldModels:
    return make_models()


@pytest.fixture(scope="session")
def section_models() -> WorldModels:
    """Makes two frames at once."""
    preset = tiny()
    return make_models(
        replace(
            preset,
            transformer=replace(preset.transformer, schedule="td_f8k4f4k2f2k1_r3k1_g2"),
            descriptor=replace(preset.descriptor, steps=10),
        )
    )


@pytest.fixture(scope="session")
def models_of() -> Callable[..., WorldModels]:
    return make_models
