"""The demo film: the same opening with and without memory."""

from pathlib import Path

import av
import pytest
from PIL import Image

from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.build import build_models, random_openings
from worldsim.checkpoint import save_checkpoint
from worldsim.demo import DemoSettings, look_away_and_back, run_demo
from worldsim.presets import tiny

SPACE = ActionSpace((
    ActionFactor(name="move", choices=("none", "forward", "back"), keys=(("w",), ("s",))),
    ActionFactor(name="turn", choices=("none", "left", "right"), keys=(("left",), ("right",))),
    ActionFactor(name="strafe", choices=("none", "left", "right"), keys=(("a",), ("d",))),
))  # fmt: skip


def test_demo_writes_video_and_strip(tmp_path: Path) -> None:
    """A video with a frame missing, or of one world only, would show nothing of memory."""
    models = build_models(tiny(), SPACE)
    models.openings = random_openings(models, count=2, frames=4)
    save_checkpoint(models, tmp_path / "checkpoint")
    settings = DemoSettings(
        out=tmp_path / "demo.mp4", checkpoint=tmp_path / "checkpoint", turn_steps=3, wait_steps=24
    )
    run_demo(settings)
    with av.open(str(settings.out)) as video:
        shapes = [(frame.height, frame.width) for frame in video.decode(video=0)]
    assert len(shapes) == 1 + 3 + 24 + 5
    assert len(set(shapes)) == 1
    with Image.open(settings.out.with_suffix(".png")) as strip:
        assert strip.width >= 10 * 128
        assert strip.height >= 2 * 96


def test_it_turns_back_by_as_much_as_away() -> None:
    """Looking back must reach what was seen before looking away."""
    models = build_models(tiny(), SPACE)
    actions = look_away_and_back(models, DemoSettings(out=Path("unused.mp4"), turn_steps=4, wait_steps=2))
    turns = [int(action[0, 1]) for action in actions]
    assert turns == [1] * 4 + [0] * 2 + [2] * 6


def test_a_demo_without_turning_is_refused() -> None:
    """Another game's checkpoint may have no turn: say so instead of an index error."""
    space = ActionSpace(
        (
            SPACE.factors[0],
            SPACE.factors[2],
            ActionFactor(name="use", choices=("no", "yes", "x"), keys=(("e",), ("f",))),
        )
    )
    models = build_models(tiny(), space)
    with pytest.raises(ValueError, match="no 'turn'"):
        look_away_and_back(models, DemoSettings(out=Path("unused.mp4")))
