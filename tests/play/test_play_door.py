"""play.py as a command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run_play(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    }
    return subprocess.run(
        [sys.executable, str(ROOT / "play.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**kept, **environment},
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems always have a display")
@pytest.mark.parametrize("display", ["", ":4711"])
def test_without_a_display_it_names_the_way_out(display: str) -> None:
    """Guards against a window on SDL's invisible driver that nobody can see or close."""
    done = run_play("--env", "maze", **({"DISPLAY": display} if display else {}))
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("error: XDG_RUNTIME_DIR")]
    assert line.startswith("error: no display")
    assert "--headless --frames 200 --out walk.mp4" in line
    assert done.stdout == ""


def test_a_missing_checkpoint_is_one_line(tmp_path: Path) -> None:
    """Guards against a traceback, or a window that hangs, where the world cannot be loaded."""
    done = run_play("--checkpoint", str(tmp_path / "none"), SDL_VIDEODRIVER="dummy")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'none'} is not a checkpoint")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--headless",), "--headless needs a video to write; add --out walk.mp4"),
        (("--headless", "--out", "walk.avi"), "'walk.avi' is no video name; end it with .mp4 or .gif"),
        (("--out", "walk.mp4"), "--out and --frames are for --headless; add it, or leave them out"),
        (("--seed", "-1"), "--seed -1 is too small; give 0 or more"),
        (("--env", "maze", "--steps", "2"), "--steps is for imagined worlds; leave it out with --env maze"),
    ],
)
def test_wrong_options_are_one_line(arguments: tuple[str, ...], line: str) -> None:
    """Guards against options that are passed over in silence."""
    done = run_play(*arguments)
    assert (done.returncode, done.stderr) == (2, f"error: {line}\n")
