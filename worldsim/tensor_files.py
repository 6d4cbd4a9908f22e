"""Tensors to files that survive a kill and a full disk."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from worldsim.files import atomic_path


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Let what safetensors says of a full or forbidden disk be the OSError it is, with the path's name."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        code = int(number.group(1))
        raise OSError(code, os.strerror(code), str(path)) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous CPU tensors as safetensors, or leave the old file. OSError if the disk refuses."""
    with atomic_path(path) as part, disk_errors(path):
        save_file(dict(tensors), part, metadata)
