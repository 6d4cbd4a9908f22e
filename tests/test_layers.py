"""The order of the layers: play.py -> worldsim -> models, retrieval, envs; and the leaves know nobody."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAVES = ("models", "retrieval", "envs")
FORBIDDEN = {leaf: {*LEAVES, "worldsim", "play", "tests"} - {leaf} for leaf in LEAVES} | {
    "worldsim": {"play", "tests"}
}


def imported_packages(source: str) -> set[str]:
    """Top-level names of everything that `source` imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_imports_are_found_wherever_they_hide() -> None:
    """Guards the check itself: imports inside functions and under an alias must not slip through."""
    source = "import models.packer as p\ndef f():\n    from worldsim.world import World\nfrom . import envs"
    assert imported_packages(source) == {"models", "worldsim"}


@pytest.mark.parametrize("house", FORBIDDEN)
def test_no_import_against_the_order(house: str) -> None:
    """A leaf that imports another leaf or the floor can no longer be used, tested or swapped alone."""
    files = sorted((ROOT / house).rglob("*.py"))
    assert files, f"{house}/ holds no Python file"
    broken = {
        str(path.relative_to(ROOT)): sorted(wrong)
        for path in files
        if (wrong := imported_packages(path.read_text(encoding="utf-8")) & FORBIDDEN[house])
    }
    assert broken == {}


@pytest.mark.parametrize("house", [*LEAVES, "worldsim"])
def test_names_resolve_inside_the_checkout(house: str) -> None:
    """`models`, `envs`, `retrieval` are common names: an installed namesake must not be found first."""
    spec = importlib.util.find_spec(house)
    assert spec is not None
    locations = list(spec.submodule_search_locations or [])
    assert [Path(place).resolve() for place in locations] == [ROOT / house]


def test_the_door_holds_no_tensors() -> None:
    """play.py paints frames and reads keys; with tensors in it, another door would have to copy them."""
    play = ROOT / "play.py"
    if not play.exists():
        pytest.skip("play.py has not landed")
    assert imported_packages(play.read_text(encoding="utf-8")) & {"torch", *LEAVES} == set()
