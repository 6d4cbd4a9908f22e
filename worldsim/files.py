"""Files that survive a kill: written beside their place and renamed; folders held by one process."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError that names no file, as those of writing do, the name of `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it replaces `path` if the block ends without an error.

    Parent folders are made. After an error the temporary file is deleted and `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with naming(path):
            yield part
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write a whole file, or leave the old one."""
    with atomic_path(path) as part:
        part.write_bytes(content)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, or leave the old file."""
    write_bytes_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a ValueError names the file that is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it or restore it") from None


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether this process alone is to make what is named so; its folder is made if missing.

    The hold dies with the process. Where there are no such locks (Windows), everybody is.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def only_process_in(folder: Path, what: str) -> Iterator[None]:
    """Hold `folder` (made if missing) against a second process of the same kind.

    The lock dies with the process that holds it.

    Raises BlockingIOError if another process holds it.
    """
    with held(folder / what) as mine:
        if not mine:
            raise BlockingIOError(
                f"another {what} is running in {folder}; wait for it or choose another folder"
            )
        yield
