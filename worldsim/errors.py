"""The doors' way to report what the user can mend: one line and an exit code, no traceback."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MENDS = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk is full: free some space and run the same command again",
    errno.EEXIST: "a file is in the way of a folder: give another path",
    errno.ENOTDIR: "a file is in the way of a folder: give another path",
    errno.ENOENT: "check that path",
    errno.EACCES: "give a path that you may write to",
    errno.EPERM: "give a path that you may write to",
    errno.EROFS: "give a path that you may write to",
}


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turn errors that the user can mend into one line on stderr. A context manager, and a decorator.

    `ValueError` and `OSError` become `error: <line>` and exit code 2, Ctrl-C becomes exit code 130. When the
    reader of stdout has left (`worldsim ... | head`) the exit is silent, with code 1. Anything else is a
    defect and keeps its traceback.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        if not _stdout_reader_has_left():
            raise
        raise SystemExit(1) from None
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def one_line(error: ValueError | OSError) -> str:
    """The message of `error` as a single line; what the system refuses gets a hint."""
    if not isinstance(error, OSError) or error.errno is None:
        return " ".join(str(error).split()) or type(error).__name__
    reason = error.strerror or os.strerror(error.errno)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    line = ": ".join([reason, " -> ".join(names)]) if names else reason
    if error.errno in MENDS:
        line += f"; {MENDS[error.errno]}"
    return " ".join(line.split())


def check_at_least(settings: Any, least: int, *names: str) -> None:
    """ValueError for the first of those fields of `settings` that is below `least`."""
    for name in names:
        if getattr(settings, name) < least:
            raise ValueError(f"{name} {getattr(settings, name)} is too small; give {least} or more")


def check_noise_level(level: float) -> None:
    """ValueError unless something is left of a history under noise of that level."""
    if not 0 <= level < 1:
        raise ValueError(f"history noise {level} is not within 0 (clean) and below 1 (nothing left)")


def _stdout_reader_has_left() -> bool:
    """Whether stdout is the broken pipe; if so, let go of it, or the interpreter complains while it exits."""
    try:
        os.write(1, b"\n")  # flushing again would not tell: a failed write may have dropped the text
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True
    return False
