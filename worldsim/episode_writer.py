"""Writing episodes so that a kill at any moment loses at most the last 30 frames."""

import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

import h5py
import numpy as np
from jaxtyping import Float32, Int, UInt8

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

FLUSH_EVERY: Final = 30
"""Frames from one flush to the next: what a kill may cost."""
ZLIB_LEVEL: Final = 1


class EpisodeWriter:
    """Writes one episode to `<path>.part` and renames it to `path` when it is finished.

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
        self._packed: list[bytes] = []
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in COLUMN_TYPES}
        self._written = int(file["frames"].shape[0]) if "frames" in file else 0
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
        """Frames appended so far, those not yet flushed included."""
        return self._written + len(self._packed)

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

        Raises ValueError for a frame of another size or an action outside the action space, OSError if it
        cannot be written; then everything flushed before is still in the `.part`.
        """
        if self._frame_shape is None:
            self._frame_shape = frame_u8.shape
        if frame_u8.shape != self._frame_shape:
            raise ValueError(f"{self.path}: a frame of {frame_u8.shape} among frames of {self._frame_shape}")
        self.header.action_space.validate(action)
        if len(self) == 0 and action.any():
            raise ValueError(
                f"{self.path}: action {action.tolist()} with the first frame; it must be all zeros"
            )
        pixels = np.ascontiguousarray(frame_u8)
        self._packed.append(zlib.compress(pixels, ZLIB_LEVEL))
        pose = np.full(4, np.nan, np.float32) if pose is None else pose
        values = (action, pose, room, tic, zlib.crc32(pixels))
        for (name, dtype), value in zip(COLUMN_TYPES.items(), values, strict=True):
            self._rows[name].append(np.asarray(value, dtype))
        if len(self._packed) == FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what was appended into the file, so that a kill cannot take it."""
        if not self._packed:
            return
        columns = {name: np.stack(rows) for name, rows in self._rows.items()}
        packed, self._packed = self._packed, []
        self._rows = {name: [] for name in COLUMN_TYPES}
        assert self._frame_shape is not None
        _append(self._file, packed, columns, self._frame_shape)
        self._written += len(packed)

    def column(self, name: str) -> np.ndarray:
        """A column of what is flushed so far, such as "actions" or "frame_crcs"."""
        return self._file[name][:]

    def finish(self) -> Path:
        """Flush, mark the episode complete and give it its final name.

        Raises ValueError, and leaves no file, if it has no frames.
        """
        self.flush()
        if self._written == 0:
            self._file.close()
            part_path(self.path).unlink()
            raise ValueError(f"{self.path} would have no frames; append some before finishing")
        self._file.attrs["complete"] = True
        self._file.close()
        part_path(self.path).replace(self.path)
        return self.path

    def suspend(self) -> None:
        """Flush and close, leaving the `.part` to be resumed."""
        try:
            self.flush()
        finally:
            self._file.close()

    def discard(self) -> None:
        """Close and delete the `.part`."""
        self._packed.clear()
        self._file.close()
        part_path(self.path).unlink()

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
        chunks = (FLUSH_EVERY, *row)  # a flush and no more stands to be lost with a torn chunk
        file.create_dataset(name, (0, *row), column.dtype, maxshape=(None, *row), chunks=chunks)
    file.create_dataset(
        "frames",
        (0, *frame_shape),
        "u1",
        maxshape=(None, *frame_shape),
        chunks=(1, *frame_shape),
        compression="gzip",
        compression_opts=ZLIB_LEVEL,
    )


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
        file[name].resize(stop, axis=0)
        file[name][start:stop] = column
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
            for start in range(0, file[name].shape[0], FLUSH_EVERY):
                blocks.append(file[name][start : start + FLUSH_EVERY])
        columns[name] = np.concatenate(blocks)
    length = min(len(column) for column in columns.values())
    return {name: column[:length] for name, column in columns.items()}


def _read_frames(frames: h5py.Dataset, crcs: np.ndarray) -> list[bytes]:
    """Read the compressed frames up to the first that is torn."""
    packed = []
    with suppress(OSError, RuntimeError, zlib.error):
        for index, crc in enumerate(crcs[: frames.shape[0]].tolist()):
            _, content = frames.id.read_direct_chunk((index, 0, 0, 0))
            if zlib.crc32(zlib.decompress(content)) != crc:
                break
            packed.append(content)
    return packed
