"""Writing episodes so that a kill at any moment loses at most the last 30 frames."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import h5py
import numpy as np
from jaxtyping import Float32, Int, UInt8

from worldsim.deflate import deflate
from worldsim.episode_format import (
    COLUMN_TYPES,
    DATASETS,
    FORMAT,
    FORMAT_VERSION,
    EpisodeHeader,
    check_format,
    column_shape,
    part_path,
)

BATCH: Final = 15
"""Frames written and flushed at a time. One batch may be on its way while the next gathers: a kill costs two."""
LEVEL: Final = 1
_UNKNOWN_POSE: Final = np.full(4, np.nan, np.float32)
_Row = tuple[np.ndarray, np.ndarray, np.ndarray, int, int]
"""Frame, action, pose, room, tic."""


class EpisodeWriter:
    """Writes one episode to `<path>.part` and renames it to `path` when it is finished.

    Frames are compressed and written on a thread of the writer's own, so that the caller's engine need not wait.
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
        self._begin(path, header, _create(part, header))

    def _begin(self, path: Path, header: EpisodeHeader, file: h5py.File) -> None:
        self.path, self.header, self._file = path, header, file
        self._rows: list[_Row] = []
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="episode")
        self._writing: Future[None] | None = None
        self._count = int(file["frames"].shape[0]) if "frames" in file else 0
        self._frame_shape = file["frames"].shape[1:] if "frames" in file else None

    @classmethod
    def resume(cls, path: Path) -> "EpisodeWriter | None":
        """Go on with the `.part` of `path`, cut to its last sound frame.

        Returns None, and deletes the `.part`, if no frame is sound. Raises OSError if it cannot be read or is
        being written, ValueError if another version wrote it.
        """
        part = part_path(path)
        sound = _read_sound(part)
        if sound is None:
            part.unlink(missing_ok=True)
            return None
        # Appending to a file that was torn could overwrite what it still refers to: copy it first.
        clean = part.with_name(part.name + ".new")
        with _create(clean, sound.header) as file:
            _append(file, sound.packed, sound.columns, sound.frame_shape)
        clean.replace(part)
        writer = cls.__new__(cls)
        writer._begin(path, sound.header, h5py.File(part, "r+"))
        return writer

    def __len__(self) -> int:
        """Frames appended so far, those not yet written included."""
        return self._count

    def append(
        self,
        frame_u8: UInt8[np.ndarray, "height width 3"],
        action: Int[np.ndarray, "factor"],
        *,
        pose: Float32[np.ndarray, "4"] | None = None,
        room: int = -1,
        tic: int = 0,
    ) -> None:
        """Add the next frame and the action that led to it (all zeros with the first frame).

        Raises ValueError for a frame of another size or an action outside the action space, OSError if these or
        earlier frames cannot be written; then everything flushed before is still in the `.part`.
        """
        if self._frame_shape is None:
            self._frame_shape = frame_u8.shape
        if frame_u8.shape != self._frame_shape:
            raise ValueError(f"{self.path}: a frame of {frame_u8.shape} among frames of {self._frame_shape}")
        self.header.action_space.validate(action)
        if self._count == 0 and action.any():
            raise ValueError(
                f"{self.path}: action {action.tolist()} with the first frame; it must be all zeros"
            )
        pose = _UNKNOWN_POSE if pose is None else pose
        self._rows.append((frame_u8.copy(), action.copy(), pose.copy(), room, tic))
        self._count += 1
        if len(self._rows) == BATCH:
            self._hand_over()

    def flush(self) -> None:
        """Write what was appended into the file, so that a kill cannot take it."""
        if self._rows:
            self._hand_over()
        self._wait()

    def _hand_over(self) -> None:
        self._wait()
        rows, self._rows = self._rows, []
        self._writing = self._pool.submit(_write, self._file, rows)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def column(self, name: str) -> np.ndarray:
        """A column of what was appended so far, such as "actions" or "frame_crcs"."""
        self.flush()
        return self._file[name][:]

    def finish(self) -> Path:
        """Flush, mark the episode complete and give it its final name.

        Raises ValueError, and leaves no file, if it has no frames.
        """
        if self._count == 0:
            self.discard()
            raise ValueError(f"{self.path} would have no frames; append some before finishing")
        self.flush()
        self._file.attrs["complete"] = True
        self._close()
        part_path(self.path).replace(self.path)
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
        if not self._file:
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
    writer = EpisodeWriter.resume(path)
    return writer.finish() if writer else None


@dataclass(frozen=True, kw_only=True)
class _Sound:
    """The longest sound beginning of an unfinished file."""

    header: EpisodeHeader
    frame_shape: tuple[int, int, int]
    packed: list[bytes]
    columns: dict[str, np.ndarray]


def _create(path: Path, header: EpisodeHeader) -> h5py.File:
    file = h5py.File(path, "w")  # the default libver: files of "latest" do not open again after a kill
    file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, complete=False)
    file.attrs.update(header.to_attributes())
    return file


def _create_datasets(file: h5py.File, columns: dict[str, np.ndarray], frame_shape: tuple[int, ...]) -> None:
    for name, column in columns.items():
        row = column.shape[1:]
        chunks = (BATCH, *row)  # a flush and no more stands to be lost with a torn chunk
        file.create_dataset(name, (0, *row), column.dtype, maxshape=(None, *row), chunks=chunks)
    file.create_dataset(
        "frames",
        (0, *frame_shape),
        "u1",
        maxshape=(None, *frame_shape),
        chunks=(1, *frame_shape),
        compression="gzip",
        compression_opts=LEVEL,
    )


def _write(file: h5py.File, rows: list[_Row]) -> None:
    packed, crcs = [], []
    for frame, *_ in rows:
        packed.append(deflate.compress(frame, LEVEL))
        crcs.append(deflate.crc32(frame))
    values = (*list(zip(*rows, strict=True))[1:], crcs)
    columns = {
        name: np.array(value, dtype)
        for (name, dtype), value in zip(COLUMN_TYPES.items(), values, strict=True)
    }
    _append(file, packed, columns, rows[0][0].shape)


def _append(
    file: h5py.File, packed: list[bytes], columns: dict[str, np.ndarray], frame_shape: tuple[int, ...]
) -> None:
    if "frames" not in file:
        _create_datasets(file, columns, frame_shape)
    frames = file["frames"]
    start = frames.shape[0]
    stop = start + len(packed)
    frames.resize(stop, axis=0)
    for index, content in enumerate(packed, start=start):
        frames.id.write_direct_chunk((index, 0, 0, 0), content)
    for name, column in columns.items():
        dataset = file[name]
        dataset.resize(stop, axis=0)
        dataset[start:stop] = column
    file.flush()


def _read_sound(part: Path) -> _Sound | None:
    try:
        with h5py.File(part, "r") as file:
            if any(name not in file for name in DATASETS):
                return None  # killed before its first flush
            check_format(part, file)
            header = EpisodeHeader.from_attributes(file.attrs)
            columns = _read_columns(file, len(header.action_space.factors))
            packed = _read_frames(file["frames"], columns["frame_crcs"])
            frame_shape = file["frames"].shape[1:]
    except (OSError, RuntimeError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(
                f"{part} cannot be read ({os.strerror(error.errno)}); is it being written?"
            ) from None
        return None  # killed before its first flush
    if not packed:
        return None
    columns = {name: column[: len(packed)] for name, column in columns.items()}
    return _Sound(header=header, frame_shape=frame_shape, packed=packed, columns=columns)


def _read_columns(file: h5py.File, factors: int) -> dict[str, np.ndarray]:
    """Read each column flush by flush up to the first that is torn."""
    columns = {}
    for name, dtype in COLUMN_TYPES.items():
        blocks = [np.empty((0, *column_shape(name, factors)), dtype)]
        with suppress(OSError, RuntimeError):
            for start in range(0, file[name].shape[0], BATCH):
                blocks.append(file[name][start : start + BATCH])
        columns[name] = np.concatenate(blocks)
    length = min(len(column) for column in columns.values())
    return {name: column[:length] for name, column in columns.items()}


def _read_frames(frames: h5py.Dataset, crcs: np.ndarray) -> list[bytes]:
    """Read the compressed frames up to the first that is torn."""
    packed = []
    with suppress(OSError, RuntimeError, deflate.error):
        for index, crc in enumerate(crcs[: frames.shape[0]].tolist()):
            _, content = frames.id.read_direct_chunk((index, 0, 0, 0))
            if deflate.crc32(deflate.decompress(content)) != crc:
                break
            packed.append(content)
    return packed
