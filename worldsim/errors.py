"""The doors' way to report what the user can mend: one line and an exit code, no traceback."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
    """The message of `error` as a single line; a full disk gets its own hint."""
    if not isinstance(error, OSError) or error.errno is None:
        return " ".join(str(error).split()) or type(error).__name__
    reason = error.strerror or os.strerror(error.errno)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    line = ": ".join([reason, " -> ".join(names)]) if names else reason
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        line += "; the disk is full: free some space and run the same command again"
    return " ".join(line.split())


def _stdout_reader_has_left() -> bool:
    """Whether stdout is the broken pipe; if so, let go of it, or the interpreter complains while it exits."""
    try:
        os.write(1, b"\n")  # flushing again would not tell: a failed write may have dropped the text
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True
    return False
