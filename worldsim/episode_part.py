"""The file of an episode in the making: a log that only grows, so that a kill can tear nothing but its end.

HDF5 is no format for that: a flush changes what the file already holds, in several writes, and a kill between two of
them can cost the whole file. So an episode becomes HDF5 when it is finished. The log is `MAGIC` and then records: the
header's attributes as JSON, and batches of frames; each with its length and CRC-32 before it.
"""

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from worldsim.deflate import deflate
from worldsim.episode_format import (
    COLUMN_TYPES,
    DATASETS,
    FORMAT,
    FORMAT_VERSION,
    EpisodeHeader,
    column_shape,
)

BATCH: Final = 15
"""Frames written at a time; also the chunk length of the datasets beside the frames."""
LEVEL: Final = 1
"""Of deflate. 1,202 maze frames of 128×96 (36.9 kB raw), on one busy core: zlib 1 19.3 kB in 0.47 ms a frame, zlib 2
19.2 kB in 0.56 ms, `isal` 0 26.4 kB in 0.10 ms, `isal` 1 22.8 kB in 0.13 ms, `isal` 3 22.1 kB in 0.15 ms."""
SLACK: Final = 1 << 20
"""Bytes, beside a tenth of the log, that HDF5 may take for its own tables."""
MAGIC: Final = b"worldsim-part 1\n"
_RECORD: Final = struct.Struct("<QI")
_COUNTS: Final = struct.Struct("<IIII")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Consecutive frames, compressed, and the rows of the datasets beside them."""

    frame_shape: tuple[int, ...]
    packed: list[bytes]
    columns: dict[str, np.ndarray]

    def to_bytes(self) -> bytes:
        """Number and shape of the frames, their lengths, the columns, the frames."""
        lengths = np.array([len(each) for each in self.packed], "<u4")
        columns = [self.columns[name].astype(kind).tobytes() for name, kind in COLUMN_TYPES.items()]
        counts = _COUNTS.pack(len(self.packed), *self.frame_shape)
        return b"".join((counts, lengths.tobytes(), *columns, *self.packed))

    @classmethod
    def from_bytes(cls, content: bytes, factors: int) -> "Batch":
        """What `to_bytes` wrote of actions with so many factors."""
        count, *shape = _COUNTS.unpack_from(content)
        at = _COUNTS.size
        lengths = np.frombuffer(content, "<u4", count, at)
        at += lengths.nbytes
        columns = {}
        for name, kind in COLUMN_TYPES.items():
            row = column_shape(name, factors)
            values = np.frombuffer(content, kind, count * int(np.prod(row)), at)
            columns[name] = values.reshape(count, *row)
            at += values.nbytes
        ends = at + np.cumsum(lengths, dtype=np.int64)
        packed = [content[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        return cls(frame_shape=tuple(shape), packed=packed, columns=columns)


@dataclass
class PartFile:
    """A log being appended to; it is locked until it is closed, or its process ends."""

    path: Path
    header: EpisodeHeader
    descriptor: int
    batches: list[dict[str, np.ndarray]] = field(default_factory=list)
    """columns of what was appended; frames stay in the file"""
    frame_shape: tuple[int, ...] | None = None
    """height, width, 3; None before the first batch"""
    open: bool = True

    @classmethod
    def create(cls, path: Path, header: EpisodeHeader) -> "PartFile":
        """Begin a log."""
        file = cls(path, header, _opened(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        attributes = {"format_version": FORMAT_VERSION, **header.to_attributes()}
        _write(file.descriptor, MAGIC + _record(json.dumps(attributes).encode()))
        return file

    @classmethod
    def resume(cls, path: Path) -> "PartFile | None":
        """Open a log to go on with, cut behind its last sound record; None if it has no sound frame.

        Raises OSError if it cannot be read or is being written; ValueError if another version wrote it.
        """
        descriptor = _opened(path, os.O_RDWR)
        file: PartFile | None = None
        end = 0
        try:
            for content, stop in _records(path):
                end = stop
                if file is None:
                    file = cls(path, _header(path, content), descriptor)
                else:
                    file._note(Batch.from_bytes(content, file.factors))
            if file is not None and file.batches:
                os.truncate(descriptor, end)
                os.lseek(descriptor, 0, os.SEEK_END)
                return file
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def __len__(self) -> int:
        return sum(len(each["frame_crcs"]) for each in self.batches)

    @property
    def factors(self) -> int:
        return len(self.header.action_space.factors)

    def append(self, batch: Batch) -> None:
        """Write a batch, so that a kill cannot take it."""
        _write(self.descriptor, _record(batch.to_bytes()))
        self._note(batch)

    def _note(self, batch: Batch) -> None:
        self.batches.append(batch.columns)
        self.frame_shape = batch.frame_shape

    def column(self, name: str) -> np.ndarray:
        """A column of what was appended."""
        empty = np.empty((0, *column_shape(name, self.factors)), COLUMN_TYPES[name])
        return np.concatenate([empty, *(each[name] for each in self.batches)])

    def close(self) -> None:
        """Leave the log as it is."""
        if self.open:
            os.close(self.descriptor)
        self.open = False

    def finish(self, path: Path) -> None:
        """Write the episode to `path` as HDF5, by way of a temporary file, and delete the log.

        OSError if there is no room for it; then the log stays.
        """
        made = self.path.with_name(self.path.name + ".new")
        try:
            # HDF5 crashes where its file cannot grow, so room is made sure of before.
            with made.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.path.stat().st_size * 11 // 10 + SLACK)
            self._write_hdf5(made)
            made.replace(path)
            self.path.unlink()
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, os.strerror(error.errno), str(made)) from None
        finally:
            made.unlink(missing_ok=True)
            self.close()

    def _write_hdf5(self, path: Path) -> None:
        assert self.frame_shape is not None
        with h5py.File(path, "w") as file:
            file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, complete=True)
            file.attrs.update(self.header.to_attributes())
            for name, kind in COLUMN_TYPES.items():
                row = column_shape(name, self.factors)
                file.create_dataset(
                    name, data=self.column(name), dtype=kind, maxshape=(None, *row), chunks=(BATCH, *row)
                )
            frames = file.create_dataset(
                "frames", (len(self), *self.frame_shape), "u1", maxshape=(None, *self.frame_shape),
                chunks=(1, *self.frame_shape), compression="gzip", compression_opts=LEVEL,
            )  # fmt: skip
            index = 0
            records = _records(self.path)
            next(records)
            for content, _ in records:
                for packed in Batch.from_bytes(content, self.factors).packed:
                    frames.id.write_direct_chunk((index, 0, 0, 0), packed)
                    index += 1
            assert index == len(self)
            assert set(DATASETS) == set(file)


def _opened(path: Path, flags: int) -> int:
    """A descriptor of the locked file. OSError if another process writes it."""
    import fcntl  # not on Windows, where finished episodes can be read all the same

    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise OSError(
            f"{path} cannot be read ({os.strerror(error.errno or 0)}); is it being written?"
        ) from None
    return descriptor


def _record(content: bytes) -> bytes:
    return _RECORD.pack(len(content), deflate.crc32(content)) + content


def _write(descriptor: int, content: bytes) -> None:
    """All of it; OSError where the file cannot grow."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _records(path: Path) -> Iterator[tuple[bytes, int]]:
    """The log's sound records, and where in the file each ends.

    ValueError if another version wrote it.
    """
    with path.open("rb") as file:
        begun = file.read(len(MAGIC))
        if begun != MAGIC:
            if len(begun) < len(MAGIC) and MAGIC.startswith(begun):
                return  # killed before anything was written
            raise ValueError(
                f"{path} was begun by another version of worldsim; finish it with that one, or delete it"
            )
        while len(told := file.read(_RECORD.size)) == _RECORD.size:
            length, crc = _RECORD.unpack(told)
            content = file.read(length)
            if len(content) < length or deflate.crc32(content) != crc:
                return
            yield content, file.tell()


def _header(path: Path, content: bytes) -> EpisodeHeader:
    attributes = json.loads(content)
    version = attributes.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has episode format {version}, this worldsim writes {FORMAT_VERSION}; "
            "finish it with the worldsim that began it, or delete it"
        )
    return EpisodeHeader.from_attributes(attributes)
