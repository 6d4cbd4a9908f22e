"""Recording what is played as episodes, one for each world entered."""

import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from worldsim.episode import EpisodeWriter, next_episode_path
from worldsim.play.simulation import Moment, Place, Simulation


class Recording:
    """Writes the played frames and actions to a folder, from the frame where the player takes over.

    Any thread may close it, also while another one appends: what comes after `close` is passed over, so the last
    episode is whole although a worker was left behind. Worlds in which no step was made leave no episode.
    """

    def __init__(self, folder: Path) -> None:
        """Takes the folder, made if missing; OSError when that cannot be."""
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.episodes: list[Path] = []
        self._lock = threading.Lock()
        self._writer: EpisodeWriter | None = None
        self._closed = False

    def begin(self, simulation: Simulation, seed: int, moment: Moment) -> None:
        """Finishes the episode before and begins the one of a world just reset to that seed."""
        with self._lock:
            if self._closed:
                return
            self._finish()
            self._writer = EpisodeWriter(next_episode_path(self.folder), simulation.episode_header(seed))
            self._write(moment.frames_u8[-1:], simulation.action_space.none[None], moment.places[-1:])

    def append(self, actions: Int64[np.ndarray, "time factors"], moment: Moment) -> None:
        """Adds a section and the actions that led to its frames; OSError when the disk refuses it."""
        with self._lock:
            if not self._closed:
                self._write(moment.frames_u8, actions, moment.places)

    def close(self) -> None:
        """Finishes the open episode; harmless when done twice."""
        with self._lock:
            self._closed = True
            self._finish()

    def _write(
        self,
        frames_u8: UInt8[np.ndarray, "time height width 3"],
        actions: Int64[np.ndarray, "time factors"],
        places: tuple[Place, ...],
    ) -> None:
        assert self._writer is not None, "begin comes before append"
        try:
            for position, (frame_u8, action) in enumerate(zip(frames_u8, actions, strict=True)):
                if places:
                    place = places[position]
                    self._writer.append(frame_u8, action, pose=place.pose, room=place.room, tic=place.tic)
                else:
                    self._writer.append(frame_u8, action)
        except BaseException:
            writer, self._writer = self._writer, None
            with suppress(
                OSError, RuntimeError
            ):  # what is on the disk stays in the .part; the first error is told
                writer.suspend()
            raise

    def _finish(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if len(writer) < 2:
            writer.discard()
        else:
            self.episodes.append(writer.finish())
