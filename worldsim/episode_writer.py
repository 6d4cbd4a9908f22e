"""Writing episodes so that a kill at any moment loses at most the last 30 frames."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, Int, UInt8

from worldsim.deflate import deflate
from worldsim.episode_format import COLUMN_TYPES, EpisodeHeader, part_path
from worldsim.episode_part import BATCH, LEVEL, Batch, PartFile

_UNKNOWN_POSE: Final = np.full(4, np.nan, np.float32)
FrameMaker = Callable[[], np.ndarray]
"""Makes a frame, uint8 (height, width, 3), when it is called."""
_Row = tuple[np.ndarray | FrameMaker, np.ndarray, np.ndarray, int, int]
"""Frame, action, pose, room, tic."""
_Packed = tuple[tuple[int, ...], bytes, tuple[Any, ...]]
"""Shape and compressed bytes of a frame, its row of each column."""
PACKED_AT_ONCE: Final = 5
"""Frames that the thread is given at a time; few, so that little is left to do when an episode ends."""


class EpisodeWriter:
    """Writes one episode to `<path>.part` and renames it to `path` when it is finished.

    Frames are made, compressed and written on a thread of the writer's own, so that the caller's engine need not
    wait for it.
    As a context manager it finishes the episode at the end of the block; if the block raises, what was
    appended stays in the `.part`, to be gone on with by `resume` or closed by `recover`.
    """

    def __init__(self, path: Path, header: EpisodeHeader):
        """Begin an episode. Raises FileExistsError rather than overwrite one, finished or not."""
        part = part_path(path)
        for taken in (path, part):
            if taken.exists():
                raise FileExistsError(f"{taken} exists already; delete it or record under another number")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._begin(path, header, PartFile.create(part, header))

    def _begin(self, path: Path, header: EpisodeHeader, file: PartFile) -> None:
        self.path, self.header, self._file = path, header, file
        self._rows: list[_Row] = []
        self._packed: list[_Packed] = []
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="episode")
        self._pool.submit(int)  # starts the thread now: its maker may be kept on one CPU later, it may not
        self._writing: Future[None] | None = None
        self._count = len(file)
        self._frame_shape = file.frame_shape

    @classmethod
    def resume(cls, path: Path) -> "EpisodeWriter | None":
        """Go on with the `.part` of `path`, cut to its last sound frame.

        Returns None, and deletes the `.part`, if no frame is sound. Raises OSError if it cannot be read or is
        being written, ValueError if another version wrote it.
        """
        part = part_path(path)
        file = PartFile.resume(part)
        if file is None:
            part.unlink(missing_ok=True)
            return None
        writer = cls.__new__(cls)
        writer._begin(path, file.header, file)
        return writer

    def __len__(self) -> int:
        """Frames appended so far, those not yet written included."""
        return self._count

    def append(
        self,
        frame_u8: UInt8[np.ndarray, "height width 3"] | FrameMaker,
        action: Int[np.ndarray, "factor"],
        *,
        pose: Float32[np.ndarray, "4"] | None = None,
        room: int = -1,
        tic: int = 0,
    ) -> None:
        """Add the next frame and the action that led to it (all zeros with the first frame).

        Instead of a frame give a function without arguments that makes it: it is called on the writer's thread,
        soon but not at once, so what it reads must stay as it is.

        Raises ValueError for a frame of another size or an action outside the action space, OSError if these or
        earlier frames cannot be written; then everything flushed before is still in the `.part`. What a function
        raises, and ValueError for the size of what it makes, comes with a later call.
        """
        if isinstance(frame_u8, np.ndarray):
            if self._frame_shape is None:
                self._frame_shape = frame_u8.shape
            _check_shape(self.path, frame_u8.shape, self._frame_shape)
            frame_u8 = frame_u8.copy()
        self.header.action_space.validate(action)
        if self._count == 0 and action.any():
            raise ValueError(
                f"{self.path}: action {action.tolist()} with the first frame; it must be all zeros"
            )
        pose = _UNKNOWN_POSE if pose is None else pose
        self._rows.append((frame_u8, action.copy(), pose.copy(), room, tic))
        self._count += 1
        if len(self._rows) == PACKED_AT_ONCE:
            self._hand_over()

    def flush(self) -> None:
        """Write what was appended into the file, so that a kill cannot take it."""
        self._hand_over(everything=True)
        self._wait()

    def _hand_over(self, everything: bool = False) -> None:
        """Have the thread pack the rows, and write whole batches, or everything."""
        self._wait()
        rows, self._rows = self._rows, []
        self._writing = self._pool.submit(self._pack_and_write, rows, everything)

    def _pack_and_write(self, rows: list[_Row], everything: bool) -> None:
        self._packed += [_pack(row) for row in rows]
        while len(self._packed) >= BATCH or (everything and self._packed):
            batch, self._packed = self._packed[:BATCH], self._packed[BATCH:]
            _write(self.path, self._file, batch)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except Exception as error:
            self._rows.clear()  # nothing may follow the frames that are lost
            self._packed.clear()
            if not isinstance(error, OSError):
                raise
            self._file.close()
            if error.errno is None:
                raise
            raise OSError(error.errno, os.strerror(error.errno), str(part_path(self.path))) from None

    def column(self, name: str) -> np.ndarray:
        """A column of what was appended so far, such as "actions" or "frame_crcs"."""
        self.flush()
        return self._file.column(name)

    def finish(self) -> Path:
        """Flush, mark the episode complete and give it its final name.

        Raises ValueError, and leaves no file, if it has no frames.
        """
        if self._count == 0:
            self.discard()
            raise ValueError(f"{self.path} would have no frames; append some before finishing")
        self.flush()
        self._pool.shutdown()
        self._file.finish(self.path)
        return self.path

    def suspend(self) -> None:
        """Flush and close, leaving the `.part` to be resumed."""
        try:
            self.flush()
        finally:
            self._close()

    def discard(self) -> None:
        """Close and delete the `.part`."""
        self._rows.clear()
        self._close()
        part_path(self.path).unlink()

    def _close(self) -> None:
        self._pool.shutdown()
        self._file.close()

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.open:
            return
        if error is None:
            self.finish()
        else:
            with suppress(OSError, RuntimeError):  # the error that ended the block is the one to tell
                self.suspend()


def recover(path: Path) -> Path | None:
    """Finish the `.part` of `path` as an episode of the frames it has.

    Returns None, and deletes the `.part`, if no frame is sound. Raises as `EpisodeWriter.resume` does.
    """
    if path.exists():  # killed after it was finished
        part_path(path).unlink(missing_ok=True)
        return path
    writer = EpisodeWriter.resume(path)
    return writer.finish() if writer else None


def _check_shape(path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(f"{path}: a frame of {shape} among frames of {expected}")


def _pack(row: _Row) -> _Packed:
    made, *others = row
    frame = made if isinstance(made, np.ndarray) else made()
    return frame.shape, deflate.compress(frame.data, LEVEL), (*others, deflate.crc32(frame.data))


def _write(path: Path, file: PartFile, batch: list[_Packed]) -> None:
    shapes, packed, rows = zip(*batch, strict=True)
    expected = file.frame_shape or shapes[0]
    for shape in shapes:
        _check_shape(path, shape, expected)
    columns = {
        name: np.array(value, dtype)
        for (name, dtype), value in zip(COLUMN_TYPES.items(), zip(*rows, strict=True), strict=True)
    }
    file.append(Batch(frame_shape=expected, packed=list(packed), columns=columns))
