"""What the worker last made and the window paints: the one place where both threads meet."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from worldsim.action_space import ActionSpace
from worldsim.play.pace import Pace
from worldsim.play.simulation import Moment, RecalledFrame, Simulation

Phase = Literal["loading", "playing", "waiting", "paused", "closed"]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that the window paints. `version` changes whenever the picture, the phase or the recalled frames do."""

    phase: Phase = "loading"
    version: int = 0
    title: str = ""
    action_space: ActionSpace | None = None
    frame_u8: UInt8[np.ndarray, "height width 3"] | None = None
    frame: int = 0
    seed: int = 0
    frames_per_s: float | None = None
    latency_p50_s: float | None = None
    memory_mode: str | None = None
    memory_frames: int | None = None
    timings_s: dict[str, float] = field(default_factory=dict)
    recalled: tuple[RecalledFrame, ...] = ()
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict)


class Screen:
    """Takes what the worker makes and gives snapshots of it; every method may be called from any thread.

    Frames of one section are shown one period apart, so that a section of several frames moves evenly.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshot = Snapshot()
        self._pace = Pace()
        self._due: deque[tuple[float, int, np.ndarray]] = deque()

    def snapshot(self) -> Snapshot:
        """What to paint now."""
        with self._lock:
            now_s = time.monotonic()
            while self._due and self._due[0][0] <= now_s:
                _, frame, frame_u8 = self._due.popleft()
                self._change(frame=frame, frame_u8=frame_u8)
            return replace(
                self._snapshot,
                frames_per_s=self._pace.frames_per_s(now_s),
                latency_p50_s=self._pace.latency_p50_s(),
            )

    def set_phase(self, phase: Phase) -> None:
        """What the worker is doing."""
        with self._lock:
            if phase in ("waiting", "paused"):
                self._pace.rest()
            if phase != self._snapshot.phase:
                self._change(phase=phase)

    def announce(self, simulation: Simulation) -> None:
        """The world is loaded."""
        with self._lock:
            self._change(
                title=simulation.title,
                memory_mode=simulation.memory_mode,
                action_space=simulation.action_space,
            )

    def open_world(self, seed: int, moment: Moment) -> None:
        """Shows the last frame of an opening; the first frame of the world has number 0."""
        with self._lock:
            self._due.clear()
            self._pace = Pace()
            self._change(
                seed=seed,
                frame=len(moment.frames_u8) - 1,
                frame_u8=moment.frames_u8[-1],
                memory_frames=moment.memory_frames,
                timings_s={},
                recalled=(),
                thumbnails={},
            )

    def show_section(
        self, first_frame: int, moment: Moment, start_s: float, end_s: float, period_s: float
    ) -> None:
        """Shows a section asked for at start_s and ready at end_s, its frames at least period_s apart."""
        frames = len(moment.frames_u8)
        period_s = max(period_s, (end_s - start_s) / frames)
        with self._lock:
            self._pace.add(start_s, end_s, frames)
            for position, frame_u8 in enumerate(moment.frames_u8):
                self._due.append((end_s + position * period_s, first_frame + position, frame_u8))
            self._change(
                memory_frames=moment.memory_frames, recalled=moment.recalled, timings_s=moment.timings_s
            )

    def show_thumbnails(self, thumbnails: dict[int, np.ndarray]) -> None:
        """Pictures of the recalled frames, by frame number."""
        with self._lock:
            self._change(thumbnails=thumbnails)

    def _change(self, **fields: object) -> None:
        self._snapshot = replace(self._snapshot, version=self._snapshot.version + 1, **fields)  # type: ignore[arg-type]
