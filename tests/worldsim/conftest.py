"""Tiny world models with random weights that all count."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from retrieval.motion import Motion
from retrieval.odometer import Odometer
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


def walking() -> Motion:
    """Tables like the maze's: turns of 7, 12 and then 14 degrees, a push of 7 units now and 3.5 later."""
    turns = [
        (0, 1, -1)[row % 3] * (7.0 if row // 3 % 3 == 0 else 12.0 if row // 9 == 0 else 14.0)
        for row in range(27)
    ]
    steps = [((0.0, 7.0, -7.0)[row // 9], (0.0, 7.0, -7.0)[row % 3]) for row in range(27)]
    after = tuple((forward / 2, left / 2) for forward, left in steps)
    return Motion(
        sizes=(3, 3, 3), turn_factor=1, turns_deg=tuple(turns), carry=0.67, thrust=tuple(steps), after=after
    )


def make_models(preset: Preset | None = None, seed: int = 0) -> WorldModels:
    """Fresh transformers make the same velocity whatever the history, because some layers begin at zero."""
    preset = preset or tiny()
    models = build_models(preset, MAZE_ACTIONS, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        models.odometer = Odometer.of(preset.odometer, walking()).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for part in (models.transformer, models.odometer):
        for parameter in part.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    # Steps are judged changed and unchanged by turns.
    torch.nn.init.normal_(models.odometer.step.mlp[-1].weight[:1], std=8.0, generator=generator)
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


@pytest.fixture
def nothing_is_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained odometer leaves every maze within some steps: all frames would be out of recall's reach."""
    for limit in ("FARTHEST", "STANDING"):
        monkeypatch.setattr(f"worldsim.recall.{limit}", -math.inf)
