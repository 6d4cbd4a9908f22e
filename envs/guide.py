"""A scripted player that follows a list of stops: places to stand at, directions to look in, rests, wanderings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from envs.explorer import Explorer
from envs.maze_map import MazeMap
from envs.route import Waypoint, heading_around
from envs.walker import Gait, Walker, step_keys, wrap

PATIENCE = 400
"""Steps after which a stop is given up: the player is stuck behind a decoration."""
SLIDE = 2.1
"""Last steps' lengths that a player slides on once no key is held: each is 0.675 of the one before."""
STILL = 2.0
"""Map units a step: slower counts as standing."""
CLOSE = 100.0
"""Map units from a place: nearer, the player brakes. One step of a key leads 33 units far."""
TAP_DEG = 7.0
"""What one step of a turn key turns, where it was not held before; later ones turn twice as far."""


@dataclass(frozen=True, kw_only=True)
class Go:
    """Walk to a place in a room, through the rooms named or by a shortest way."""

    room: int
    place: Waypoint
    through: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Face:
    """Turn on the spot, the shorter way, until the view points there; degrees, 0 east, 90 north."""

    yaw_deg: float


@dataclass(frozen=True, kw_only=True)
class Rest:
    """Press nothing for so many steps."""

    steps: int


@dataclass(frozen=True, kw_only=True)
class Wander:
    """Explore for so many steps."""

    steps: int


Stop = Go | Face | Rest | Wander


class Guide:
    """A policy from poses to actions, deterministic in its seed and the poses; it rests once all stops are done."""

    def __init__(self, maze_map: MazeMap, seed: int, stops: Sequence[Stop]) -> None:
        self.maze_map, self.stops, self._seed = maze_map, tuple(stops), seed
        rng = np.random.Generator(np.random.PCG64(seed))
        self._walker = Walker(maze_map, rng, lambda _: Gait(facing_rad=0.0, steadiness=1.0, lazy_deg=60.0))
        self._explorer: Explorer | None = None
        self._freeing = 0
        self._age = 0
        self.at = 0
        """number of the stop that is being made; as many as there are stops once all are done"""

    @property
    def done(self) -> bool:
        return self.at == len(self.stops)

    def act(self, pose: Float32[np.ndarray, "4"]) -> Int64[np.ndarray, "3"]:
        """Return the next action for a pose (x, y, z in map units, yaw in degrees)."""
        x, y, yaw_deg = float(pose[0]), float(pose[1]), float(pose[3])
        self._walker.see(x, y, yaw_deg)
        while not self.done:
            keys = self._keys(self.stops[self.at], pose)
            self._age += 1
            if keys is not None and self._age <= PATIENCE:
                return self._walker.press(keys)
            self._next()
        return self._walker.press((0, 0, 0))

    def _next(self) -> None:
        self.at += 1
        self._age, self._freeing, self._explorer = 0, 0, None
        self._walker.way.clear()

    def _keys(self, stop: Stop, pose: Float32[np.ndarray, "4"]) -> tuple[int, int, int] | None:
        """Keys of the coming step; None where the stop has been made."""
        x, y, yaw_deg = float(pose[0]), float(pose[1]), float(pose[3])
        if isinstance(stop, Go):
            return self._walking(stop, x, y, yaw_deg)
        if isinstance(stop, Face):
            return turning_keys(stop.yaw_deg - yaw_deg, int(self._walker.keys[1]))
        if self._age == stop.steps:
            return None
        if isinstance(stop, Rest):
            return 0, 0, 0
        self._explorer = self._explorer or Explorer(self.maze_map, self._seed + self.at)
        move, turn, strafe = (int(key) for key in self._explorer.act(pose))
        return move, turn, strafe

    def _walking(self, stop: Go, x: float, y: float, yaw_deg: float) -> tuple[int, int, int] | None:
        walker = self._walker
        if self._freeing:
            self._freeing -= 1
            move, turn, strafe = (int(key) for key in walker.keys)
            return move, turn, strafe
        if self._age == 0:
            walker.go_to(stop.room, stop.place, stop.through)
        if not walker.way:  # It had to free itself on the way, or slid by.
            walker.go_to(stop.room, stop.place)
        if walker.is_stuck():
            walker.free()
            self._freeing = int(walker.rng.integers(2, 5))
        last = len(walker.way) == 1 and walker.way[0] is stop.place
        if last and math.hypot(stop.place.x - x, stop.place.y - y) < CLOSE:
            return self._braking(stop, x, y, yaw_deg)
        return walker.walk_keys(x, y, yaw_deg)

    def _braking(self, stop: Go, x: float, y: float, yaw_deg: float) -> tuple[int, int, int] | None:
        """Taps of keys towards the place from where the player will have slid to; None once it stands there."""
        moved = self._walker.moved()
        left = left_after_sliding(stop.place.x - x, stop.place.y - y, moved)
        if math.hypot(*left) < stop.place.radius:
            # Whether the player slides cannot be told from the first place seen.
            return None if self._age and math.hypot(*moved) < STILL else (0, 0, 0)
        heading = heading_around(self.maze_map.things_of[stop.room], x, y, math.atan2(left[1], left[0]))
        return step_keys(heading - math.radians(yaw_deg), 0)


def turning_keys(error_deg: float, held: int) -> tuple[int, int, int] | None:
    """Keys that turn by what is left, the shorter way, after a step in which turn key `held` was; None: it is done.

    By turns of two taps and more while there is far to go, then by single taps.
    """
    error_deg = math.degrees(wrap(math.radians(error_deg)))
    if abs(error_deg) < 0.6 * TAP_DEG:
        return None
    if held and abs(error_deg) < 1.2 * TAP_DEG:
        return 0, 0, 0
    return 0, 1 if error_deg > 0 else 2, 0


def left_after_sliding(dx: float, dy: float, moved: tuple[float, float]) -> tuple[float, float]:
    """What is left of the way (dx, dy) once a player who moved so far in the last step has slid to a halt."""
    return dx - SLIDE * moved[0], dy - SLIDE * moved[1]
