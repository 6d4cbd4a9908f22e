"""The HDF5 file of an episode in the making: appended to in batches, read back after a kill."""

import os
from contextlib import suppress
from dataclasses import dataclass
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
    check_format,
    column_shape,
)

BATCH: Final = 15
"""Frames written and flushed at a time; also the chunk length of the datasets beside the frames."""
LEVEL: Final = 1
"""Of deflate. 1,202 maze frames of 128×96 (36.9 kB raw), on one busy core: zlib 1 19.3 kB in 0.47 ms a frame, zlib 2
19.2 kB in 0.56 ms, `isal` 0 26.4 kB in 0.10 ms, `isal` 1 22.8 kB in 0.13 ms, `isal` 3 22.1 kB in 0.15 ms."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Consecutive frames, compressed, and the rows of the datasets beside them."""

    frame_shape: tuple[int, ...]
    packed: list[bytes]
    columns: dict[str, np.ndarray]


class PartFile:
    """An HDF5 file being appended to, with its datasets at hand: looking one up costs as much as a write."""

    def __init__(self, file: h5py.File):
        self.file = file
        self.datasets: dict[str, h5py.Dataset] = {name: file[name] for name in DATASETS if name in file}

    @classmethod
    def create(cls, path: Path, header: EpisodeHeader) -> "PartFile":
        """Begin a file; its datasets are made with the first batch."""
        file = h5py.File(path, "w")  # the default libver: files of "latest" do not open again after a kill
        file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, complete=False)
        file.attrs.update(header.to_attributes())
        return cls(file)

    def __len__(self) -> int:
        return int(self.datasets["frames"].shape[0]) if self.datasets else 0

    @property
    def frame_shape(self) -> tuple[int, ...] | None:
        """Height, width, 3; None before the first batch."""
        return tuple(self.datasets["frames"].shape[1:]) if self.datasets else None

    def append(self, batch: Batch) -> None:
        """Write a batch and flush, so that a kill cannot take it."""
        if not self.datasets:
            self._create_datasets(batch)
        start = len(self)
        stop = start + len(batch.packed)
        frames = self.datasets["frames"].id
        frames.set_extent((stop, *batch.frame_shape))
        for index, content in enumerate(batch.packed, start=start):
            frames.write_direct_chunk((index, 0, 0, 0), content)
        for name, column in batch.columns.items():
            row = column.shape[1:]
            self.datasets[name].id.set_extent((stop, *row))
            if start % BATCH == 0 and len(column) == BATCH:  # a whole chunk: a tenth of the time of a slice
                self.datasets[name].id.write_direct_chunk((start, *(0 for _ in row)), column.tobytes())
            else:
                self.datasets[name][start:stop] = column
        self.file.flush()

    def _create_datasets(self, batch: Batch) -> None:
        for name, column in batch.columns.items():
            row = column.shape[1:]
            self.file.create_dataset(
                name, (0, *row), column.dtype, maxshape=(None, *row), chunks=(BATCH, *row)
            )
        self.file.create_dataset(
            "frames",
            (0, *batch.frame_shape),
            "u1",
            maxshape=(None, *batch.frame_shape),
            chunks=(1, *batch.frame_shape),
            compression="gzip",
            compression_opts=LEVEL,
        )
        self.datasets = {name: self.file[name] for name in DATASETS}

    def abandon(self) -> None:
        """Close without writing any more, after a write that failed: the file stays as it was last flushed.

        HDF5 would write what it still holds in memory into a file that cannot grow, and tear it.
        """
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, self.file.id.get_vfd_handle())
        os.close(null)
        with suppress(OSError, RuntimeError):
            self.file.close()

    def finish(self) -> None:
        """Mark the episode complete and close the file."""
        self.file.attrs["complete"] = True
        self.file.close()


def read_sound(path: Path) -> tuple[EpisodeHeader, Batch] | None:
    """Read the longest sound beginning of an unfinished file; None if no frame of it is sound.

    Raises OSError if it cannot be read for another reason, such as that it is being written; ValueError if
    another version wrote it.
    """
    try:
        with h5py.File(path, "r") as file:
            if any(name not in file for name in DATASETS):
                return None  # killed before its first batch was whole
            check_format(path, file)
            header = EpisodeHeader.from_attributes(file.attrs)
            columns = _read_columns(file, len(header.action_space.factors))
            packed = _read_frames(file["frames"], columns["frame_crcs"])
            frame_shape = tuple(file["frames"].shape[1:])
    except (OSError, RuntimeError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(
                f"{path} cannot be read ({os.strerror(error.errno)}); is it being written?"
            ) from None
        return None  # HDF5 cannot make sense of it
    if not packed:
        return None
    columns = {name: column[: len(packed)] for name, column in columns.items()}
    return header, Batch(frame_shape=frame_shape, packed=packed, columns=columns)


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
