"""Several processes share the parts of an evaluation: each is made once, and none is lost with who was killed over it."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from worldsim.evaluation.shared_rows import shared_rows

HOLDER = """
import sys, time
from pathlib import Path
from worldsim.files import held
with held(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [tmp_path / "partial" / f"part-{number}.jsonl" for number in range(8)]


def rows_of(number: int) -> list[dict]:
    """No row, one or two."""
    return [{"part": number, "row": row} for row in range(number % 3)]


def test_each_part_is_made_once_whoever_makes_it(paths: list[Path]) -> None:
    begin = Barrier(3)

    def work(_: int) -> tuple[list[dict], list[int], list[int]]:
        made, found = [], []

        def make(number: int) -> list[dict]:
            made.append(number)
            time.sleep(0.05)
            return rows_of(number)

        begin.wait()
        return shared_rows(paths, make, found.append), made, found

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(work, range(3)))
    assert sorted(number for _, made, _ in done for number in made) == list(range(8))
    for rows, made, found in done:
        assert rows == [row for number in range(8) for row in rows_of(number)]
        assert sorted(made + found) == list(range(8))
        assert made  # or nobody shared


def test_what_a_killed_process_held_is_made_by_another(paths: list[Path]) -> None:
    """Waited for while it lives, and not for ever."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(paths[2])], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        made: list[int] = []

        def make(number: int) -> list[dict]:
            made.append(number)
            return rows_of(number)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(shared_rows, paths, make)
            deadline = time.monotonic() + 60
            while len(made) < 7 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert sorted(made) == [0, 1, 3, 4, 5, 6, 7]
            assert not waiting.done()
            holder.kill()
            assert waiting.result(timeout=60) == [row for number in range(8) for row in rows_of(number)]
    assert made[-1] == 2


def test_a_part_that_fails_leaves_nothing_behind(paths: list[Path]) -> None:
    """The error goes on, and the next run makes that part and no other."""

    def failing(number: int) -> list[dict]:
        if number == 3:
            raise ValueError("values that are not numbers")
        return rows_of(number)

    with pytest.raises(ValueError, match="not numbers"):
        shared_rows(paths, failing)
    made: list[int] = []

    def make(number: int) -> list[dict]:
        made.append(number)
        return rows_of(number)

    assert len(shared_rows(paths, make)) == sum(len(rows_of(number)) for number in range(8))
    assert made == list(range(3, 8))
