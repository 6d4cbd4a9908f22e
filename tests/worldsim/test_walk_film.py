"""The film of a long walk away and back."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from envs.rambler import Phase, RamblerSettings
from worldsim.action_space import ActionSpace
from worldsim.build import build_models, random_openings
from worldsim.checkpoint import WorldModels, save_checkpoint
from worldsim.memory_pair import Moment
from worldsim.presets import tiny
from worldsim.walk_film import LAST, Shown, WalkFilmSettings, describe_return, run_walk, walk

WALK = RamblerSettings(away=5, stand=4)


def test_it_writes_video_strip_and_figures(
    tiny_models: WorldModels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step of the walk is a frame, and the command ends with how the return compares."""
    save_checkpoint(tiny_models, tmp_path / "checkpoint")
    settings = WalkFilmSettings(out=tmp_path / "walk.mp4", checkpoint=tmp_path / "checkpoint", walk=WALK)
    run_walk(settings)
    steps = int(capsys.readouterr().out.split(": ")[1].split()[0])
    with av.open(str(settings.out)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 1 + steps
    with Image.open(settings.out.with_suffix(".png")) as strip:
        assert strip.width >= 8 * 128
        assert strip.height >= 2 * 96


def test_sections_of_several_frames_are_walked(section_models: WorldModels) -> None:
    """The player acts once a section; the film shows every frame of it, in its order."""
    film = list(walk(section_models, WalkFilmSettings(out=Path("unused.mp4"), walk=WALK)))
    order: list[Phase] = ["look round", "walk away", "walk back", "turn to the first view", "stand"]
    counts = {phase: sum(shown.phase == phase for shown in film) for phase in order}
    assert len(film) % 2 == 1
    assert counts["walk away"] == 2 * WALK.away
    assert counts["stand"] == 2 * WALK.stand
    numbers = [order.index(shown.phase) for shown in film]
    assert numbers == sorted(numbers)


def test_each_world_is_compared_with_its_own_first_views() -> None:
    """The nearest view of the look-around counts, not the first one, and not the other world's."""
    rng = np.random.default_rng(0)
    views = rng.integers(0, 255, (8, 96, 128, 3), dtype=np.uint8)

    def shown(hybrid: int, off: int, yaw_deg: float, phase: Phase) -> Shown:
        pose = np.array((0.0, 0.0, yaw_deg), np.float32)
        return Shown(Moment(views[off], views[hybrid], (), (), pose), phase)

    film = [shown(i, i + 4, 90.0 * i, "look round") for i in range(4)]
    film += [shown(1, 0, 92.0, "stand")] * LAST
    told = describe_return(film)
    assert "with memory 100.00 dB, SSIM 1.000" in told
    assert "without 7." in told or "without 8." in told


def test_actions_of_another_game_are_refused() -> None:
    """The player presses the maze's keys: say so instead of playing something else."""
    rows = [
        {"name": name, "choices": ["none", "left", "right"], "keys": [[f"{name} l"], [f"{name} r"]]}
        for name in ("move", "turn", "lean")
    ]
    models = build_models(tiny(), ActionSpace.from_json(json.dumps(rows)))
    models.openings = random_openings(models, count=1, frames=1)
    with pytest.raises(ValueError, match="not the maze's move, turn, strafe"):
        next(walk(models, WalkFilmSettings(out=Path("unused.mp4"))))
