"""What a player can do: named factors of a few choices each, and the keys that hold them."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int, Int64


@dataclass(frozen=True, kw_only=True)
class ActionFactor:
    """One entry of an action: choice 0 is "none", the others have keys that hold them.

    `keys[i]` are the keys of `choices[i + 1]`, as lower-case pygame key names ("w", "up").
    """

    name: str
    choices: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.choices) <= 256:
            raise ValueError(f"action factor {self.name!r} has {len(self.choices)} choices; give 2 to 256")
        if len(self.keys) != len(self.choices) - 1:
            raise ValueError(
                f"action factor {self.name!r} has {len(self.keys)} groups of keys; "
                f"give one for each of its {len(self.choices) - 1} choices after {self.choices[0]!r}"
            )

    def from_keys(self, held_keys: Collection[str]) -> int:
        """The one choice that is held; 0 if none is, or if several contradict each other."""
        held = [i for i, keys in enumerate(self.keys, start=1) if any(key in held_keys for key in keys)]
        return held[0] if len(held) == 1 else 0


@dataclass(frozen=True)
class ActionSpace:
    """The factors of an action, in order. An action is an integer vector with one entry a factor.

    It travels with episodes and checkpoints as JSON, so that the recordings of another game train another
    model without a change of code.
    """

    factors: tuple[ActionFactor, ...]

    def __post_init__(self) -> None:
        if not self.factors:
            raise ValueError("an action space without factors; give at least one")
        names = [factor.name for factor in self.factors]
        if len(set(names)) < len(names):
            raise ValueError(f"action factors {names} repeat a name; name each once")
        keys = [key for factor in self.factors for group in factor.keys for key in group]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"keys {twice} stand for two choices; give each key to one")

    @property
    def names(self) -> tuple[str, ...]:
        """The factors' names."""
        return tuple(factor.name for factor in self.factors)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each factor, as in `gymnasium.spaces.MultiDiscrete`."""
        return tuple(len(factor.choices) for factor in self.factors)

    @cached_property
    def keys(self) -> frozenset[str]:
        """Every key that holds some choice."""
        return frozenset(key for factor in self.factors for group in factor.keys for key in group)

    @property
    def none(self) -> Int64[np.ndarray, "factor"]:
        """The action that does nothing."""
        return np.zeros(len(self.factors), np.int64)

    def validate(self, actions: Int[np.ndarray, "*batch factor"]) -> None:
        """Raise ValueError unless every action lies in this space."""
        if actions.shape[-1] != len(self.factors):
            raise ValueError(
                f"actions have {actions.shape[-1]} factors, "
                f"the action space has {len(self.factors)}: {self.names}"
            )
        wrong = (actions < 0) | (actions >= np.array(self.sizes))
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            name, size = self.names[place[-1]], self.sizes[place[-1]]
            raise ValueError(f"action {int(actions[place])} of factor {name!r} is not within 0..{size - 1}")

    def from_keys(self, held_keys: Collection[str]) -> Int64[np.ndarray, "factor"]:
        """The action of the keys that are held down now; keys that mean nothing here are passed over."""
        return np.array([factor.from_keys(held_keys) for factor in self.factors], np.int64)

    def to_json(self) -> str:
        """One line of JSON, the same for equal spaces."""
        rows = [{"name": f.name, "choices": f.choices, "keys": f.keys} for f in self.factors]
        return json.dumps(rows)

    @classmethod
    def from_json(cls, text: str) -> "ActionSpace":
        """Read back what `to_json` wrote. Raises ValueError for anything else."""
        try:
            return cls._from_rows([(row["name"], row["choices"], row["keys"]) for row in json.loads(text)])
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(f"{text[:60]!r} is not an action space in JSON ({error!r})") from None

    @classmethod
    def from_env(cls, env: Any) -> "ActionSpace":
        """The action space of a gymnasium environment whose `unwrapped` has `action_factors`.

        Each is (name, choices, keys). Raises ValueError if there are none.
        """
        rows = getattr(env.unwrapped, "action_factors", None)
        if rows is None:
            raise ValueError(
                f"environment {type(env.unwrapped).__name__} has no action_factors; "
                "give it (name, choices, keys) triples to be recorded"
            )
        return cls._from_rows(rows)

    @classmethod
    def _from_rows(cls, rows: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]) -> "ActionSpace":
        return cls(
            tuple(
                ActionFactor(name=name, choices=tuple(choices), keys=tuple(tuple(group) for group in keys))
                for name, choices, keys in rows
            )
        )
