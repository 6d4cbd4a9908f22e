"""A small world whose frames are known, for tests of the play code."""

import threading
import time

import numpy as np
import pytest

from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.episode_format import EpisodeHeader
from worldsim.play.simulation import Moment, RecalledFrame

HEIGHT, WIDTH, OPENING = 12, 16, 3


class CountingWorld:
    """Frame n of seed s has the colour (n, s, sum of its action); it recalls the first frame of the world.

    A step takes `step_s` seconds. `actions` holds every action it was given, `threads` who called it.
    """

    title = "counting world"

    def __init__(
        self, step_s: float = 0.0, section_length: int = 1, memory_mode: str | None = "hybrid"
    ) -> None:
        self.action_space = ActionSpace(
            (
                ActionFactor(
                    name="move", choices=("none", "forward", "back"), keys=(("w", "up"), ("s", "down"))
                ),
                ActionFactor(name="turn", choices=("none", "left", "right"), keys=(("left",), ("right",))),
            )
        )
        self.step_s = step_s
        self.section_length = section_length
        self.memory_mode = memory_mode
        self.actions: list[list[int]] = []
        self.decoded: list[int] = []
        self.threads: set[str] = set()
        self.in_step = threading.Event()
        self.closed = False
        self._frames = 0
        self._seed = 0

    def reset(self, seed: int) -> Moment:
        self.threads.add(threading.current_thread().name)
        self._seed, self._frames = seed, 0
        return Moment(frames_u8=np.stack([self._make(0) for _ in range(OPENING)]), memory_frames=self._frames)

    def step(self, actions: np.ndarray) -> Moment:
        self.in_step.set()
        time.sleep(self.step_s)
        self.actions += actions.tolist()
        frames_u8 = np.stack([self._make(int(action.sum())) for action in actions])
        recalled = (RecalledFrame(frame=0, age=self._frames, score=0.5),)
        return Moment(
            frames_u8=frames_u8,
            memory_frames=self._frames,
            recalled=recalled,
            timings_s={"count": self.step_s},
        )

    def frame_u8(self, frame: int) -> np.ndarray:
        self.decoded.append(frame)
        return np.full((HEIGHT, WIDTH, 3), (frame, self._seed, 0), np.uint8)

    def episode_header(self, seed: int) -> EpisodeHeader:
        return EpisodeHeader(
            environment="counting",
            engine="test",
            seed=seed,
            map_seed=seed,
            map_hash="",
            action_space=self.action_space,
            settings={},
        )

    def close(self) -> None:
        self.closed = True

    def _make(self, third: int) -> np.ndarray:
        self._frames += 1
        return np.full((HEIGHT, WIDTH, 3), (self._frames - 1, self._seed, third), np.uint8)


def wait_until(condition, timeout_s: float = 10.0) -> None:
    """Waits for a condition that another thread brings about."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.002)


@pytest.fixture
def make_world():
    return CountingWorld


@pytest.fixture
def wait():
    return wait_until
