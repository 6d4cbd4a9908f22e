"""Which keys are down, as told by key events."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class HeldKeys:
    """Held keys by name, shared by the window's thread (which tells) and the worker's (which asks).

    A key pressed and let go between two questions still counts in the next answer, so a short tap is never lost.
    """

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._tapped: set[str] = set()
        self._lock = threading.RLock()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What is told inside counts as one event: no answer is given between a key and the next."""
        with self._lock:
            yield

    def press(self, key: str) -> None:
        """The key went down."""
        with self._lock:
            self._held.add(key)
            self._tapped.add(key)

    def release(self, key: str) -> None:
        """The key went up; unknown keys are fine, their press may have gone to another window."""
        with self._lock:
            self._held.discard(key)

    def release_all(self) -> None:
        """Forgets every key, taps as well: the window lost the focus, or the world starts anew."""
        with self._lock:
            self._held.clear()
            self._tapped.clear()

    def forget_taps(self) -> None:
        """Keeps what is held, drops taps that nobody asked for: the game was paused."""
        with self._lock:
            self._tapped.clear()

    def take(self) -> frozenset[str]:
        """Keys held now or tapped since the last take; taps count once."""
        with self._lock:
            keys = frozenset(self._held | self._tapped)
            self._tapped.clear()
            return keys
