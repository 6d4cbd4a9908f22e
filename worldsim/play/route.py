"""Actions without a player: a walk for videos made without a window."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from envs.explorer import Explorer
from worldsim.action_space import ActionSpace
from worldsim.play.engine_simulation import EngineSimulation

LONGEST_HOLD = 12


@runtime_checkable
class Route(Protocol):
    """Gives one action after another."""

    def next(self) -> Int64[np.ndarray, "factors"]:
        """The next action."""
        ...

    def close(self) -> None:
        """Frees what the route holds."""
        ...


class ExplorerRoute:
    """The explorer's walk on the real map of a seed, which the world that is played does not see.

    In the engine on the same seed it is that explorer's own walk; in an imagined world it is a walk that looks
    round, goes through rooms and comes back.
    """

    def __init__(self, seed: int) -> None:
        self._hidden = EngineSimulation()
        self._moment = self._hidden.reset(seed)
        self._explorer = Explorer(self._hidden.maze_map, seed)

    @property
    def action_space(self) -> ActionSpace:
        """The action space that these actions belong to."""
        return self._hidden.action_space

    def next(self) -> Int64[np.ndarray, "factors"]:
        """What the explorer does next on its map."""
        action = self._explorer.act(self._moment.places[-1].pose)
        self._moment = self._hidden.step(action[None])
        return action

    def close(self) -> None:
        """Ends the hidden engine."""
        self._hidden.close()


class RandomRoute:
    """Random choices, each held for 1 to 12 steps: for worlds whose actions the explorer does not know."""

    def __init__(self, action_space: ActionSpace, seed: int) -> None:
        self._sizes = action_space.sizes
        self._rng = np.random.default_rng(seed)
        self._action = action_space.none
        self._left = 0

    def next(self) -> Int64[np.ndarray, "factors"]:
        """The next action."""
        if not self._left:
            self._action = self._rng.integers(self._sizes)
            self._left = int(self._rng.integers(1, LONGEST_HOLD + 1))
        self._left -= 1
        return self._action

    def close(self) -> None:
        """Nothing to free."""


def make_route(action_space: ActionSpace, seed: int) -> Route:
    """The explorer's walk where its actions fit the world, random actions elsewhere."""
    route = ExplorerRoute(seed)
    if route.action_space == action_space:
        return route
    route.close()
    return RandomRoute(action_space, seed)
