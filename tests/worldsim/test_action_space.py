"""Action spaces: keys to actions, checks, JSON."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from worldsim.action_space import ActionFactor, ActionSpace

MOVE = ("move", ("none", "forward", "back"), (("w", "up"), ("s", "down")))
TURN = ("turn", ("none", "left", "right"), (("left", "q"), ("right", "e")))
STRAFE = ("strafe", ("none", "left", "right"), (("a",), ("d",)))


@pytest.fixture
def space() -> ActionSpace:
    env = SimpleNamespace(action_factors=(MOVE, TURN, STRAFE))
    env.unwrapped = env
    return ActionSpace.from_env(env)


def test_every_mash_of_keys_gives_a_legal_action(space: ActionSpace) -> None:
    """Guards against a crash, or one key winning over its contradiction, when many keys are held at once."""
    keys = ["w", "up", "s", "down", "left", "q", "right", "e", "a", "d", "f12"]
    signs = {key: (1, 0, 0) for key in ("w", "up")} | {key: (-1, 0, 0) for key in ("s", "down")}
    signs |= {key: (0, 1, 0) for key in ("left", "q")} | {key: (0, -1, 0) for key in ("right", "e")}
    signs |= {"a": (0, 0, 1), "d": (0, 0, -1), "f12": (0, 0, 0)}
    for held in itertools.chain.from_iterable(itertools.combinations(keys, n) for n in range(len(keys) + 1)):
        action = space.from_keys(set(held))
        space.validate(action)
        pulls = np.sign(np.array([signs[key] for key in held]).reshape(-1, 3))
        both = (pulls == 1).any(0) & (pulls == -1).any(0)
        expected = np.where((pulls == 1).any(0), 1, 0) + np.where((pulls == -1).any(0), 2, 0)
        np.testing.assert_array_equal(action, np.where(both, 0, expected))


def test_json_brings_back_an_equal_space(space: ActionSpace) -> None:
    """Guards against lists in place of tuples: a space read back must equal and hash as the one written."""
    again = ActionSpace.from_json(space.to_json())
    assert again == space
    assert hash(again) == hash(space)
    assert again.sizes == (3, 3, 3)
    assert again.keys == {"w", "up", "s", "down", "left", "q", "right", "e", "a", "d"}


@pytest.mark.parametrize(
    ("actions", "line"),
    [
        (np.array([[0, 0, 0], [0, 3, 0]]), "action 3 of factor 'turn' is not within 0..2"),
        (np.array([-1, 0, 0]), "action -1 of factor 'move' is not within 0..2"),
        (np.array([0, 0]), "actions have 2 factors, the action space has 3"),
    ],
)
def test_actions_outside_the_space_are_named(space: ActionSpace, actions: np.ndarray, line: str) -> None:
    """Guards against wrong actions reaching an embedding table, where they read another row."""
    with pytest.raises(ValueError, match=line):
        space.validate(actions)


def test_malformed_spaces_are_refused() -> None:
    """Guards against a space whose keys and choices do not match, which would press the wrong choice."""
    with pytest.raises(ValueError, match="give one for each of its 2 choices"):
        ActionFactor(name="move", choices=("none", "a", "b"), keys=(("w",),))
    turn = ActionFactor(name="turn", choices=("none", "left"), keys=(("w",),))
    move = ActionFactor(name="move", choices=("none", "forward"), keys=(("w",),))
    with pytest.raises(ValueError, match=r"keys \['w'\] stand for two choices"):
        ActionSpace((turn, move))
    with pytest.raises(ValueError, match="is not an action space in JSON"):
        ActionSpace.from_json('{"name": 1}')
