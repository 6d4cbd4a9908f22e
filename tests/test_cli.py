"""The `worldsim` command: its help, its exit codes, and what it must not load."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from worldsim.cli import COMMANDS, Command, find_command, parse
from worldsim.errors import exit_on_user_error, one_line
from worldsim.threads import spare_threads

ROOT = Path(__file__).resolve().parent.parent


def run_python(code: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stderr=subprocess.PIPE, timeout=60, **kwargs
    )


def leave_with(error: BaseException) -> int | str | None:
    with pytest.raises(SystemExit) as left, exit_on_user_error():
        raise error
    return left.value.code


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command.words))
def test_help_explains_every_flag(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """A renamed target breaks its command unseen; a flag without a word sends the reader to the code."""
    with pytest.raises(SystemExit) as left:
        parse([*command.words, "--help"])
    assert left.value.code == 0
    page = capsys.readouterr().out
    assert page.startswith(f"usage: worldsim {' '.join(command.words)}")
    assert unexplained_flags(page) == []


def unexplained_flags(page: str) -> list[str]:
    """Flags of a help page with neither words of their own nor a mention in the text above them."""
    text = " ".join(re.sub("[│─╭╮╰╯]", " ", page).split())
    prose = set(re.findall(r"\w+", re.sub(r"--\S+", " ", text)))
    flags = re.findall(r" --([\w.-]+)(?:, --\S+)? ((?:(?! --).)*?)\((?:default:|required\))", text)
    return [
        name
        for name, words in flags
        if not re.search(r"(?<![\w{|\[,])[A-Za-z][a-z]", re.sub(r"\S*[{}|\[\]]\S*", "", words))
        and name.split(".")[-1].replace("-", "_") not in prose
    ]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command.words))
def test_an_unknown_flag_exits_with_2(command: Command) -> None:
    """A misspelt flag that is taken silently trains for hours with the wrong setting."""
    with pytest.raises(SystemExit) as left:
        parse([*command.words, "--no-such-flag", "1"])
    assert left.value.code == 2


def test_groups_and_unknown_words() -> None:
    """`worldsim trian` once fell through to the overview with exit code 0 in such tables."""
    assert find_command([]) is None
    assert find_command(["train", "--help"]) is None
    with pytest.raises(ValueError, match="'worldsim trian model' is not a command; the commands are: record"):
        find_command(["trian", "model"])


def test_overview_names_every_command() -> None:
    """A command that the overview leaves out is never found."""
    done = run_python(
        "import sys; sys.argv[1:] = []; from worldsim.cli import main; main()", stdout=subprocess.PIPE
    )
    assert done.returncode == 2
    for command in COMMANDS:
        assert f"  {' '.join(command.words)} " in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["record", "--help"]])
def test_help_and_recording_load_no_torch(arguments: list[str]) -> None:
    """Importing torch takes seconds and a gigabyte; sixteen recording processes would each pay it."""
    code = (
        "import sys\nfrom worldsim.cli import parse\n"
        f"try: parse({arguments})\nexcept SystemExit as left: assert left.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = run_python(code, stdout=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


WATCH_TORCH = """
import importlib, os, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            print(*(os.environ.get(key) for key in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")))
            raise SystemExit(0)
sys.meta_path.insert(0, Watch())
"""
"""Tells, when torch is first wanted, what it will find."""


@pytest.mark.parametrize(
    ("given", "cores", "found"),
    [
        ({}, {0, 1}, "1000 None"),
        ({}, {0, 1, 2, 3}, "20000 3"),
        ({"GOMP_SPINCOUNT": "5"}, {0, 1, 2, 3}, "5 3"),
        ({"OMP_NUM_THREADS": "4"}, {0, 1, 2, 3}, "1000 4"),
        ({"OMP_WAIT_POLICY": "active"}, {0, 1, 2, 3}, "None None"),
    ],
)
@pytest.mark.parametrize(
    ("door", "arguments"),
    [("play", ["--headless", "--out", "x.mp4"]), ("worldsim.cli", ["bench", "step"])],
)
def test_doors_to_play_leave_a_core_free_before_torch_loads(
    door: str, arguments: list[str], given: dict[str, str], cores: set[int], found: str
) -> None:
    """On a shared machine a training step took 2.6 s instead of 0.2 s, a step of play 0.8 s instead of 0.2 s."""
    code = (
        f"{WATCH_TORCH}\nfrom worldsim import threads\nthreads.siblings = lambda: False\n"
        f"os.sched_getaffinity = lambda _: {cores}\n"
        f"sys.argv[1:] = {arguments}\nimportlib.import_module('{door}').main()"
    )
    done = run_python(code, stdout=subprocess.PIPE, env=without_threads() | given)
    assert done.stdout.splitlines() == [found], done.stderr


def test_other_commands_spin_briefly_on_all_cores() -> None:
    """Several trainings at once, or workers, would stand in each other's way."""
    code = f"{WATCH_TORCH}\nsys.argv[1:] = ['train', 'model']\nimportlib.import_module('worldsim.cli').main()"
    done = run_python(code, stdout=subprocess.PIPE, env=without_threads())
    assert done.stdout.splitlines() == ["1000 None"], done.stderr


def without_threads() -> dict[str, str]:
    """The environment as it is for a user who has said nothing about threads."""
    told = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name not in told}


@pytest.mark.parametrize(
    ("cores", "shared", "threads"),
    [
        (1, False, None),
        (2, False, None),
        (3, False, 2),
        (4, False, 3),
        (2, True, None),
        (4, True, 2),
        (16, True, 8),
        (None, False, None),
    ],
)
def test_threads_leave_a_core_to_others(cores: int | None, shared: bool, threads: int | None) -> None:
    """Two of two cores, or one sibling of each pair, is what torch would take by itself."""
    assert spare_threads(cores, shared) == threads


def test_user_errors_become_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A message with a line break, or a traceback, hides the mend from the user."""
    assert leave_with(ValueError("width 7 is not\n  a multiple of 8")) == 2
    assert capsys.readouterr().err == "error: width 7 is not a multiple of 8\n"
    assert leave_with(FileNotFoundError(errno.ENOENT, "No such file or directory", "runs/x")) == 2
    assert capsys.readouterr().err == "error: No such file or directory: runs/x; check that path\n"
    assert leave_with(FileNotFoundError("runs/x holds no world; run worldsim train model first")) == 2
    assert capsys.readouterr().err == "error: runs/x holds no world; run worldsim train model first\n"


def test_full_disk_names_the_mend() -> None:
    """[Errno 28] alone does not tell that the recording can go on after making room."""
    line = one_line(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "recordings/0.h5.part"))
    assert line.startswith("No space left on device: recordings/0.h5.part; the disk is full")


def test_interrupt_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    """Shell loops stop at Ctrl-C only when the command says by its exit code that it was interrupted."""
    assert leave_with(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("defect", [RuntimeError("x"), KeyError("x"), BrokenPipeError("a worker died")])
def test_defects_keep_their_traceback(defect: Exception) -> None:
    """A defect told as the user's mistake is never repaired; a dead worker's pipe is not stdout."""
    with pytest.raises(type(defect)), exit_on_user_error():
        raise defect


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_left_is_no_error() -> None:
    """`worldsim ... | head` once ended in a BrokenPipeError traceback, a second one at interpreter exit."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "from worldsim.errors import exit_on_user_error\nwith exit_on_user_error(): print('x' * 1_000_000)"
    done = run_python(code, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_does_not_fit_is_an_error() -> None:
    """Small outputs wait in the buffer: without a flush inside the door a lost report exits with 0."""
    code = "from worldsim.errors import exit_on_user_error\nwith exit_on_user_error(): print('report')"
    with open("/dev/full", "w") as full:
        done = run_python(code, stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No space left on device")


@pytest.mark.parametrize("stage", ["autoencoder", "descriptor", "model"])
def test_torchrun_takes_no_training_flag_for_its_own(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    """torchrun reads abbreviations of its own flags behind the module's name too: `--start` was refused there."""
    from torch.distributed.run import get_args_parser

    with pytest.raises(SystemExit):
        parse(["train", stage, "--help"])
    flags = re.findall(r"^\W+(--[a-z.-]+) ", capsys.readouterr().out, re.MULTILINE)
    assert "--warm-start" in flags
    for flag in flags:
        words = ["-m", "worldsim.cli", "train", stage, flag, "x"]
        assert get_args_parser().parse_args(words).training_script_args == words[2:]
