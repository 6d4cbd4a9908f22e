"""What README.md promises: its commands parse, its paths exist, its pictures are there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import tyro

from play import PlaySettings
from worldsim.cli import parse

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(*first_words: str) -> list[list[str]]:
    """Commands of the shell blocks that start with `first_words`, split into words, comments dropped."""
    lines = [
        shlex.split(line, comments=True)
        for language, block in BLOCKS
        if language == "sh"
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if tuple(line[: len(first_words)]) == first_words]


def play_flags() -> list[list[str]]:
    """Flags of every way the README starts play.py: by itself, or through make."""
    return [
        *(words[2:] for words in commands("python", "play.py")),
        *(
            shlex.split(words[2].removeprefix("ARGS="))
            for words in commands("make", "play")
            if len(words) > 2
        ),
    ]


def tree_paths() -> list[str]:
    """Paths of the annotated tree: two blanks deeper means inside the last less deep line that ends in a slash."""
    tree = next(block for language, block in BLOCKS if language == "text" and "worldsim/" in block)
    paths, folders = [], []
    for line in filter(str.strip, tree.splitlines()):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[:depth]
        paths.append("".join([*folders, name]))
        if name.endswith("/"):
            folders.append(name)
    return paths


@pytest.mark.parametrize("words", commands("worldsim"), ids=" ".join)
def test_worldsim_commands_parse(words: list[str]) -> None:
    """A flag that was renamed leaves a README whose commands fail at the first try."""
    assert callable(parse(words[1:]))


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_make_targets_exist(words: list[str]) -> None:
    """A target that is gone leaves the first command of the README broken."""
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("flags", play_flags(), ids=" ".join)
def test_play_flags_parse(flags: list[str]) -> None:
    """A flag of play.py that was renamed, or that contradicts another, must not stay in the README."""
    tyro.cli(PlaySettings, args=flags).check()


def test_there_is_something_to_check() -> None:
    """Guards the checks themselves: a change of fences or tree style must not leave them empty."""
    assert commands("worldsim")
    assert commands("make")
    assert play_flags()
    assert len(tree_paths()) > 10


def test_every_path_of_the_tree_exists() -> None:
    """A tree that names files moved long ago misleads whoever looks for them."""
    assert [path for path in tree_paths() if not (ROOT / path).exists()] == []


def test_every_link_and_picture_exists() -> None:
    """A picture that was never added shows as a broken image at the top of the page."""
    links = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r'(?:src|href)="([^"#:]+)"', README)
    assert [link for link in links if not (ROOT / link).exists()] == []
