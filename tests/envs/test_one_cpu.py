"""Pairs of processes that share a CPU: each pair another one, and all as before afterwards."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from envs.one_cpu import on_one_cpu

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems do not keep processes on a CPU"
)
SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A process to share a CPU with; no recording that runs beside the test holds its CPUs."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with subprocess.Popen(SLEEP) as process:
        yield process
        process.kill()


def test_both_share_a_cpu_and_go_back(sleeper: subprocess.Popen[bytes]) -> None:
    """Guards against a process that stays on one CPU: everything it does later would be slow."""
    before = os.sched_getaffinity(0)
    with suppress(KeyError), on_one_cpu(sleeper.pid):
        assert len(os.sched_getaffinity(0)) == 1
        assert os.sched_getaffinity(sleeper.pid) == os.sched_getaffinity(0)
        raise KeyError
    assert os.sched_getaffinity(0) == os.sched_getaffinity(sleeper.pid) == before


def test_no_cpu_is_held_twice(sleeper: subprocess.Popen[bytes]) -> None:
    """Guards against two workers on one CPU while others are idle; one too many goes without."""
    allowed = os.sched_getaffinity(0)
    held: set[int] = set()
    with ExitStack() as stack:
        for _ in allowed:
            stack.enter_context(on_one_cpu(sleeper.pid))
            held |= os.sched_getaffinity(0)
            os.sched_setaffinity(0, allowed)
        with on_one_cpu(sleeper.pid):
            assert os.sched_getaffinity(0) == allowed
    assert held == allowed


def test_an_ended_process_is_passed_over(sleeper: subprocess.Popen[bytes]) -> None:
    """Guards against a recording that ends otherwise than by the line that tells of its engine's end."""
    before = os.sched_getaffinity(0)
    for pid in (sleeper.pid, None):
        sleeper.kill()
        sleeper.wait()
        with on_one_cpu(pid):
            pass
        assert os.sched_getaffinity(0) == before
