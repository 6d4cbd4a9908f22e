"""How the threads that share one matrix product wait for one another. All of it must be said before torch is imported."""

import os
from pathlib import Path

BRIEF, LONG = 1_000, 20_000
"""Turns of a busy loop before a waiting thread sleeps: some ten microseconds, and some two hundred."""
SIBLINGS = Path("/sys/devices/system/cpu/smt/active")
"""says 1 where two of Linux' cores are one"""


def spin_briefly() -> None:
    """Let OpenMP's threads spin for a moment and then sleep, unless the environment says otherwise.

    Left alone they spin for milliseconds, which makes a step up to a hundred times slower once another program, or
    the window, wants one of the cores. Never spinning is safe too, but makes a step on free cores nearly twice as
    slow, because it is hundreds of short parallel parts. GNU's OpenMP, which torch for Linux brings along, reads
    `GOMP_SPINCOUNT`; others ignore it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(BRIEF))


def spin_beside_a_spare_core() -> None:
    """For one world that is played step by step: leave one core to others, and wait awake on the rest.

    On four cores a step took 193 ms with three threads that spin long and 294 ms with three that spin briefly; with one
    other busy program 209 ms, where four threads that spin long took 1,499 ms (`worldsim bench step`). With fewer than
    three cores there is none to spare: threads spin briefly. So they do where `OMP_NUM_THREADS` is set already.
    """
    threads = spare_threads(usable_cores(), siblings())
    if threads is not None and not {"OMP_WAIT_POLICY", "OMP_NUM_THREADS"} & set(os.environ):
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ.setdefault("GOMP_SPINCOUNT", str(LONG))
    spin_briefly()


def usable_cores() -> int | None:
    """How many cores this process may use; None where the system does not say (it then has another OpenMP, too)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def siblings() -> bool:
    """Whether two of the cores counted share the arithmetic of one."""
    return SIBLINGS.is_file() and SIBLINGS.read_text().strip() == "1"


def spare_threads(cores: int | None, shared: bool) -> int | None:
    """Threads that leave a core free; None where fewer than two threads or no free core would be left."""
    if cores is None:
        return None
    threads = cores // 2 if shared else cores - 1
    return threads if 2 <= threads < cores else None
