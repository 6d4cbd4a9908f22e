"""How fast the world goes: frames a second and latency."""

import statistics
from collections import deque

RATE_WINDOW_S = 2.0
LATENCY_SECTIONS = 64


class Pace:
    """Frames a second over the last two seconds of steps, and the median seconds from input to section."""

    def __init__(self) -> None:
        self._sections: deque[tuple[float, int]] = deque()
        self._latencies_s: deque[float] = deque(maxlen=LATENCY_SECTIONS)

    def add(self, start_s: float, end_s: float, frames: int) -> None:
        """One section of `frames` frames, asked for at start_s and there at end_s (one monotonic clock)."""
        self._sections.append((end_s, frames))
        self._latencies_s.append(end_s - start_s)

    def rest(self) -> None:
        """The player stood still: the time until the next section says nothing about speed."""
        self._sections.clear()

    def frames_per_s(self, now_s: float) -> float | None:
        """Frames made in the last two seconds, a second; None until two sections follow one another."""
        while self._sections and now_s - self._sections[0][0] > RATE_WINDOW_S:
            self._sections.popleft()
        if len(self._sections) < 2:
            return None
        span_s = self._sections[-1][0] - self._sections[0][0]
        frames = sum(count for _, count in self._sections) - self._sections[0][1]
        return frames / span_s if span_s > 0 else None

    def latency_p50_s(self) -> float | None:
        """Median latency of the last 64 sections in seconds; None before the first."""
        return statistics.median(self._latencies_s) if self._latencies_s else None
