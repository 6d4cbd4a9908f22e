"""Reading recorded episodes. `worldsim.episode_format` describes the file."""

from functools import cached_property
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from jaxtyping import Float32, Int, Int16, Int32, UInt8, UInt32

from worldsim.deflate import deflate
from worldsim.episode_format import (
    COLUMN_TYPES,
    EpisodeHeader,
    check_format,
    column_shape,
    list_episodes,
    next_episode_path,
)
from worldsim.episode_writer import EpisodeWriter, recover

__all__ = ["Episode", "EpisodeHeader", "EpisodeWriter", "list_episodes", "next_episode_path", "recover"]


class Episode:
    """A finished episode, open for reading. Lossless: frames come back as they were appended.

    Each frame is a chunk of its own, read around HDF5's own filters: about 6,000 random frames of 128×96 a
    second on one core with zlib, 11,000 with `isal`. Not to be shared between processes: open it in each.
    """

    def __init__(self, path: Path, file: h5py.File):
        self.path, self._file = path, file
        self.header = EpisodeHeader.from_attributes(file.attrs)
        self._frames: h5py.Dataset = file["frames"]
        self.height, self.width = int(self._frames.shape[1]), int(self._frames.shape[2])

    @classmethod
    def open(cls, path: Path) -> "Episode":
        """Open an episode.

        Raises FileNotFoundError, OSError for a torn file, ValueError for another format or version, a missing
        dataset or a wrong shape; each in one line that names the file.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not a file; give an episode of worldsim record")
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise OSError(f"{path} is torn or not HDF5 ({_first_line(error)}); {_MEND}") from None
        try:
            check_format(path, file)
            if not file.attrs.get("complete", False):
                raise ValueError(f"{path} is unfinished; rerun worldsim record to finish it")
            _check_shapes(path, file)
            return cls(path, file)
        except (KeyError, RuntimeError) as error:
            file.close()
            raise OSError(f"{path} is torn ({_first_line(error)}); {_MEND}") from None
        except BaseException:
            file.close()
            raise

    def __len__(self) -> int:
        """Number of frames, the first one of the reset included."""
        return int(self._frames.shape[0])

    def __enter__(self) -> "Episode":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file. Columns that were read before stay."""
        self._file.close()

    def frames(self, start: int = 0, stop: int | None = None) -> UInt8[np.ndarray, "time height width 3"]:
        """Frames `start` to before `stop` (all to the end by default), 0 <= start <= stop <= len."""
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"{self.path} has frames 0..{len(self) - 1}, not {start}..{stop - 1}")
        return self.frame_at(np.arange(start, stop))

    def frame_at(self, indices: Int[np.ndarray, "time"]) -> UInt8[np.ndarray, "time height width 3"]:
        """The frames of these numbers, in this order, repeats allowed.

        Raises ValueError beyond the episode, OSError for a torn frame.
        """
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            wrong = int(indices.min()) if indices.min() < 0 else int(indices.max())
            raise ValueError(f"{self.path} has frames 0..{len(self) - 1}, not {wrong}")
        size = self.height * self.width * 3
        frames = np.empty((len(indices), size), np.uint8)
        for row, index in zip(frames, indices.tolist(), strict=True):
            try:
                _, packed = self._frames.id.read_direct_chunk((index, 0, 0, 0))
                row[:] = np.frombuffer(deflate.decompress(packed, bufsize=size), np.uint8)
            except (OSError, RuntimeError, deflate.error, ValueError) as error:
                raise OSError(
                    f"{self.path} is torn at frame {index} ({_first_line(error)}); {_MEND}"
                ) from None
        return frames.reshape(len(indices), self.height, self.width, 3)

    @cached_property
    def actions(self) -> UInt8[np.ndarray, "time factor"]:
        """`actions[t]` led to frame t; row 0 is zeros."""
        return self._column("actions")

    @cached_property
    def poses(self) -> Float32[np.ndarray, "time 4"]:
        """x, y, z in map units and yaw in degrees [0, 360); NaN where nobody knows."""
        return self._column("poses")

    @cached_property
    def rooms(self) -> Int16[np.ndarray, "time"]:
        """Number of the room around the player; -1 where nobody knows."""
        return self._column("rooms")

    @cached_property
    def tics(self) -> Int32[np.ndarray, "time"]:
        """The engine's clock at each frame."""
        return self._column("tics")

    @cached_property
    def frame_crcs(self) -> UInt32[np.ndarray, "time"]:
        """CRC-32 of each frame's bytes."""
        return self._column("frame_crcs")

    def torn_frames(self) -> list[int]:
        """Numbers of the frames whose bytes are not those that were recorded; reads the whole episode."""
        torn = []
        for index, crc in enumerate(self.frame_crcs.tolist()):
            try:
                sound = deflate.crc32(self.frame_at(np.array([index])).tobytes()) == crc
            except OSError:
                sound = False
            if not sound:
                torn.append(index)
        return torn

    def _column(self, name: str) -> np.ndarray:
        try:
            return self._file[name][:]
        except (OSError, RuntimeError) as error:
            raise OSError(f"{self.path} is torn in {name!r} ({_first_line(error)}); {_MEND}") from None


_MEND = "delete it or rerun worldsim record"


def _first_line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0].strip("'\"")


def _check_shapes(path: Path, file: h5py.File) -> None:
    frames = file["frames"]
    shape, times = frames.shape, frames.shape[0]
    factors = len(EpisodeHeader.from_attributes(file.attrs).action_space.factors)
    if len(shape) != 4 or shape[3] != 3 or times == 0 or frames.dtype != np.uint8:
        raise ValueError(
            f"{path}: frames are {frames.dtype} {shape}, not uint8 (time, height, width, 3); {_MEND}"
        )
    if frames.chunks != (1, *shape[1:]) or frames.compression != "gzip" or frames.shuffle:
        raise ValueError(f"{path}: frames are not one plain gzip chunk each; write it with EpisodeWriter")
    for name, dtype in COLUMN_TYPES.items():
        expected = (times, *column_shape(name, factors))
        found = file[name]
        if found.shape != expected or found.dtype != dtype:
            raise ValueError(
                f"{path}: {name} is {found.dtype} {found.shape}, not {dtype} {expected}; {_MEND}"
            )
