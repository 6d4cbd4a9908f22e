"""Held keys, combinations and taps, as actions."""

import numpy as np

from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.play.held_keys import HeldKeys

SPACE = ActionSpace(
    (
        ActionFactor(name="move", choices=("none", "forward", "back"), keys=(("w", "up"), ("s", "down"))),
        ActionFactor(name="turn", choices=("none", "left", "right"), keys=(("left",), ("right",))),
        ActionFactor(name="strafe", choices=("none", "left", "right"), keys=(("a",), ("d",))),
    )
)


def taken(keys: HeldKeys) -> list[int]:
    return SPACE.from_keys(keys.take()).tolist()


def test_held_keys_combine_until_released() -> None:
    """Guards against keys that count once only, or that stick after their release."""
    keys = HeldKeys()
    keys.press("w")
    keys.press("right")
    keys.press("a")
    assert taken(keys) == [1, 2, 1]
    assert taken(keys) == [1, 2, 1]
    keys.release("right")
    assert taken(keys) == [1, 0, 1]
    keys.release("w")
    keys.release("a")
    assert taken(keys) == [0, 0, 0]


def test_two_keys_of_one_choice() -> None:
    """Guards against the release of W ending a walk that the up arrow still holds."""
    keys = HeldKeys()
    keys.press("w")
    keys.press("up")
    assert taken(keys) == [1, 0, 0]
    keys.release("w")
    assert taken(keys) == [1, 0, 0]


def test_a_tap_shorter_than_a_step_counts_once() -> None:
    """Guards against lost taps (pressed and released between two steps) and against doubled ones."""
    keys = HeldKeys()
    keys.press("left")
    keys.release("left")
    assert taken(keys) == [0, 1, 0]
    assert taken(keys) == [0, 0, 0]


def test_release_all_forgets_held_keys_and_taps() -> None:
    """Guards against walking on for ever when the key-up went to another window."""
    keys = HeldKeys()
    keys.press("w")
    keys.press("d")
    keys.release("d")
    keys.release_all()
    assert taken(keys) == [0, 0, 0]
    keys.release("w")
    assert taken(keys) == [0, 0, 0]


def test_forget_taps_keeps_what_is_held() -> None:
    """Guards against keys tapped during a pause that move the player after it."""
    keys = HeldKeys()
    keys.press("w")
    keys.press("d")
    keys.release("d")
    keys.forget_taps()
    assert np.array_equal(SPACE.from_keys(keys.take()), [1, 0, 0])
