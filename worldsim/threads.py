"""How the threads that share one matrix product wait for one another."""

import os

SPINS = 1000
"""Turns of a busy loop, about ten microseconds, before a waiting thread sleeps."""


def spin_briefly() -> None:
    """Let OpenMP's threads spin for a moment and then sleep, unless the environment says otherwise.

    Left alone they spin for milliseconds, which makes a step up to a hundred times slower once another program, or
    the window, wants one of the cores. Never spinning is safe too, but makes a step on free cores nearly twice as
    slow, because it is hundreds of short parallel parts. Must be called before torch is imported. GNU's OpenMP, which
    torch for Linux brings along, reads `GOMP_SPINCOUNT`; others ignore it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
