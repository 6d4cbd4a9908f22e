"""Rows of figures that are made part by part, by one process or by several that run the same command beside each other."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from worldsim.evaluation.reports import read_rows, write_rows
from worldsim.files import held

WAIT_S = 0.5
"""between two looks at parts that other processes are making"""


def shared_rows(
    paths: Sequence[Path],
    make: Callable[[int], list[dict[str, Any]]],
    found: Callable[[int], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Rows of all parts in turn: read where a part's file is there, of which `found` is told, else made and written.

    What another process is making is left to it, and waited for in the end; what it leaves behind unmade, killed, is made
    here.
    """
    rows: dict[int, list[dict[str, Any]]] = {}
    while len(rows) < len(paths):
        known = len(rows)
        for number in (each for each in range(len(paths)) if each not in rows):
            with held(paths[number]) as mine:
                if paths[number].exists():
                    rows[number] = read_rows(paths[number])
                    found(number)
                elif mine:
                    rows[number] = make(number)
                    write_rows(paths[number], rows[number])
        if len(rows) == known:
            time.sleep(WAIT_S)
    return [row for number in range(len(paths)) for row in rows[number]]
