"""What is shown when: the frames of a section, on a clock that the test turns."""

import numpy as np
import pytest

from worldsim.play import screen as screen_module
from worldsim.play.screen import Screen
from worldsim.play.simulation import Moment


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as the screen reads it."""
    now_s = [100.0]
    monkeypatch.setattr(screen_module.time, "monotonic", lambda: now_s[0])
    return now_s


def moment(frames: int) -> Moment:
    return Moment(frames_u8=np.zeros((frames, 12, 16, 3), np.uint8), memory_frames=frames)


@pytest.mark.parametrize("took_s", [0.04, 0.8])
def test_frames_of_a_section_are_shown_one_after_another(clock: list[float], took_s: float) -> None:
    """Guards against a section of which only the last frame is ever seen, and against four frames shown in a burst."""
    screen = Screen()
    screen.open_world(0, moment(3))
    start_s, clock[0] = clock[0], clock[0] + took_s
    screen.show_section(3, moment(4), start_s, clock[0], period_s=0.05)
    apart_s = max(0.05, took_s / 4)
    seen = []
    for _ in range(4):
        seen.append(screen.snapshot().frame)
        clock[0] += 0.9 * apart_s
        assert screen.snapshot().frame == seen[-1]
        clock[0] += 0.1 * apart_s + 1e-9
    assert seen == [3, 4, 5, 6]


def test_another_world_drops_what_was_to_come(clock: list[float]) -> None:
    """Guards against frames of the old world shown in the new one."""
    screen = Screen()
    screen.open_world(0, moment(3))
    screen.show_section(3, moment(4), clock[0], clock[0], period_s=0.05)
    screen.open_world(1, moment(3))
    clock[0] += 10
    assert (screen.snapshot().seed, screen.snapshot().frame) == (1, 2)
