"""Jobs for many processes, each with an engine of its own. Ends cleanly with its parent, whatever ends that."""

import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from worldsim.errors import one_line


class Stopped(Exception):
    """The parent has ended or wants no more: leave what is begun in order and return."""


class Reporter:
    """A job's line to the parent."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def frames(self, count: int) -> None:
        """Tell of `count` more frames. Raises Stopped if the parent has ended or wants no more."""
        # The parent sends nothing while a job runs, so anything to read is the end of the line.
        if self._connection.poll():
            raise Stopped
        self._send("frames", count)

    def line(self, text: str) -> None:
        """Have a line printed above the progress bar. Raises Stopped as `frames` does."""
        self._send("line", text)

    def _send(self, kind: str, value: Any) -> None:
        try:
            self._connection.send((kind, value))
        except (BrokenPipeError, ConnectionResetError):
            raise Stopped from None


Job = Any
Runner = Callable[[Job, Reporter], Any]
"""Does one job in a process and returns its result."""


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    connection: Connection


def run_jobs(
    open_runner: Callable[..., AbstractContextManager[Runner]],
    arguments: tuple[Any, ...],
    jobs: Iterable[Job],
    workers: int,
    on_frames: Callable[[int], object],
    on_line: Callable[[str], object],
) -> list[Any]:
    """Do `jobs` in `workers` processes; return their results in the order in which they ended.

    `open_runner(*arguments)` is entered once in each process; it, its arguments, the jobs and results are
    pickled on the way there and back. Raises OSError, with the worker's own line, when a job failed by
    something the user can mend or its process was killed; RuntimeError with its traceback for anything else.
    Whatever ends it, all processes have ended before this returns.
    """
    with _without_interrupts():
        crew = [_start(open_runner, arguments) for _ in range(workers)]
    try:
        return _dispatch(crew, list(jobs), on_frames, on_line)
    finally:
        for worker in crew:
            worker.connection.close()
        for worker in crew:
            worker.process.join(timeout=20)
            worker.process.kill()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Have processes started in the block ignore Ctrl-C, which reaches the whole group: the parent tells them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(open_runner: Callable[..., AbstractContextManager[Runner]], arguments: tuple[Any, ...]) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork would share the parent's threads and open files
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, open_runner, arguments), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _dispatch(
    crew: list[_Worker],
    jobs: list[Job],
    on_frames: Callable[[int], object],
    on_line: Callable[[str], object],
) -> list[Any]:
    jobs, results = jobs[::-1], []
    at_work = {worker.connection: worker for worker in crew}
    while at_work:
        for connection in wait(list(at_work)):
            assert isinstance(connection, Connection)
            kind, value = _receive(at_work[connection])
            if kind == "frames":
                on_frames(value)
            elif kind == "line":
                on_line(value)
            elif kind == "error":
                raise OSError(value)
            elif kind == "defect":
                raise RuntimeError(f"a worker failed:\n{value}")
            else:
                if kind == "done":
                    results.append(value)
                if jobs:
                    connection.send(jobs.pop())
                else:
                    del at_work[connection]
    return results


def _receive(worker: _Worker) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = worker.connection.recv()
        return message
    except (EOFError, ConnectionResetError):
        worker.process.join(timeout=5)
        code = worker.process.exitcode
        raise OSError(f"a worker ended with code {code}; run the same command again to go on") from None


def _serve(
    connection: Connection,
    open_runner: Callable[..., AbstractContextManager[Runner]],
    arguments: tuple[Any, ...],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Python's start may have set its own handler again
    reporter = Reporter(connection)
    with suppress(Stopped, EOFError, ConnectionResetError):
        try:
            with open_runner(*arguments) as run:
                reporter._send("ready", None)
                while True:
                    reporter._send("done", run(connection.recv(), reporter))
        except (Stopped, EOFError, ConnectionResetError):
            raise
        except (OSError, ValueError) as error:
            reporter._send("error", one_line(error))
        except Exception:
            reporter._send("defect", traceback.format_exc())
