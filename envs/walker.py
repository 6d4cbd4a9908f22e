"""Walking: keys that lead a player from where it is along points of a way."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from envs.maze_map import MazeMap
from envs.route import Waypoint, door_points, heading_around, leads_through, place_in, rooms_between


@dataclass(frozen=True, kw_only=True)
class Gait:
    """How one leg is walked: where the player looks relative to the way, how steadily the keys are held."""

    facing_rad: float
    steadiness: float
    lazy_deg: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Gait":
        """Mostly straight ahead and steadily; sometimes sideways, backwards, or with rests."""
        angles, shares = [0.0, 45.0, 90.0, 135.0, 180.0], [0.69, 0.1, 0.07, 0.07, 0.07]
        facing = float(rng.choice(angles, p=shares)) * (1.0 if rng.random() < 0.5 else -1.0)
        steadiness = float(rng.choice([1.0, 0.8, 0.55], p=[0.6, 0.25, 0.15]))
        return cls(
            facing_rad=math.radians(facing), steadiness=steadiness, lazy_deg=float(rng.uniform(45.0, 120.0))
        )


class Walker:
    """What every scripted player knows of its walk: room, way, gait, keys held, the last places."""

    def __init__(
        self,
        maze_map: MazeMap,
        rng: np.random.Generator,
        draw_gait: Callable[[np.random.Generator], Gait] = Gait.draw,
    ) -> None:
        self.maze_map, self.rng, self._draw_gait = maze_map, rng, draw_gait
        self.room = -1
        self.way: deque[Waypoint] = deque()
        self.gait = draw_gait(rng)
        self.keys = np.zeros(3, np.int64)
        self._places: deque[tuple[float, float, float]] = deque(maxlen=5)
        self._pushing = 0
        self._waypoint_age = 0

    def see(self, x: float, y: float, yaw_deg: float) -> None:
        """Take note of where the player is; points of the way that it has reached fall away."""
        self.room = self.maze_map.room_at(x, y)
        self._places.append((x, y, yaw_deg))
        while self.way and self._is_reached(x, y):
            self.way.popleft()
            self._waypoint_age = 0
            if self.rng.random() < 0.3:
                self.gait = self._draw_gait(self.rng)

    def _is_reached(self, x: float, y: float) -> bool:
        target = self.way[0]
        if target.door is not None and leads_through(target.door, x, y, self.way[1]):
            return True
        return math.hypot(target.x - x, target.y - y) < target.radius

    def is_stuck(self) -> bool:
        """Whether the next point is not reached for long, or keys have not moved the player; ask once a step."""
        self._waypoint_age += 1
        if self._waypoint_age > 60:
            return True
        if self._pushing < 5 or len(self._places) < 5:
            return False
        (x0, y0, _), (x1, y1, _) = self._places[0], self._places[-1]
        return math.hypot(x1 - x0, y1 - y0) < 12.0

    def free(self) -> None:
        """Give the way up, take other keys than those that led here, and a place in the room to go to."""
        self.way.clear()
        self._pushing = 0
        self.keys = np.array([3 - v if v else int(self.rng.integers(3)) for v in self.keys], np.int64)
        self.set_off([place_in(self.maze_map, self.room, self.rng)])

    def go_to(self, goal: int, place: Waypoint | None = None, through: Iterable[int] | None = None) -> None:
        """Append the way to a place in a room (None: any), through the rooms named or by a shortest way.

        Where the player stands in another room than the one that the first of the rooms named opens to, because its last
        errand ended there, it takes a shortest way to that room.
        """
        room, points = self.room, list[Waypoint]()
        for wanted in (goal,) if through is None else through:
            beside = through is not None and wanted in self.maze_map.neighbours[room]
            for following in (wanted,) if beside else rooms_between(self.maze_map, room, wanted, self.rng):
                points += door_points(self.maze_map.neighbours[room][following], room, self.rng)
                room = following
        self.set_off([*points, place_in(self.maze_map, goal, self.rng) if place is None else place])

    def set_off(self, points: Iterable[Waypoint]) -> None:
        """Append points to the way, and begin to wait for the next one anew."""
        self.way += points
        self._waypoint_age = 0

    def press(self, keys: tuple[int, int, int]) -> Int64[np.ndarray, "3"]:
        """Hold these keys for the coming step."""
        self.keys = np.array(keys, np.int64)
        self._pushing = self._pushing + 1 if (keys[0] or keys[2]) else 0
        return self.keys.copy()

    def moved(self) -> tuple[float, float]:
        """How far the last step moved the player, in map units east and north."""
        if len(self._places) < 2:
            return 0.0, 0.0
        (x0, y0, _), (x1, y1, _) = self._places[-2], self._places[-1]
        return x1 - x0, y1 - y0

    def turned_deg(self) -> float:
        """How far the last step turned the player, to the left; 0 before there were two."""
        if len(self._places) < 2:
            return 0.0
        return math.degrees(wrap(math.radians(self._places[-1][2] - self._places[-2][2])))

    def walk_keys(self, x: float, y: float, yaw_deg: float) -> tuple[int, int, int]:
        """Keys that walk towards the next point of the way in the present gait."""
        if not self.way:
            return 0, 0, 0
        target, yaw = self.way[0], math.radians(yaw_deg)
        heading = math.atan2(target.y - y, target.x - x)
        heading = heading_around(self.maze_map.things_of[self.room], x, y, heading)
        error_deg = math.degrees(wrap(heading + self.gait.facing_rad - yaw))
        turn = turn_key(error_deg, int(self.keys[1]), begin_deg=20.0)
        if abs(error_deg) > self.gait.lazy_deg or self.rng.random() > self.gait.steadiness:
            return 0, turn, 0
        return step_keys(heading - yaw, turn)


def turn_key(error_deg: float, held: int, begin_deg: float) -> int:
    """A turn lasts until it is done, and begins for `begin_deg` only: no trembling about the heading."""
    return 0 if abs(error_deg) < (8.0 if held else begin_deg) else (1 if error_deg > 0 else 2)


def step_keys(angle_rad: float, turn: int) -> tuple[int, int, int]:
    """Keys that move the player in a direction, told from where it looks, to the left; of the eight that there are."""
    forward, left = math.cos(angle_rad), math.sin(angle_rad)
    move = 0 if abs(forward) < 0.38 else (1 if forward > 0 else 2)
    strafe = 0 if abs(left) < 0.38 else (1 if left > 0 else 2)
    return move, turn, strafe


def wrap(angle_rad: float) -> float:
    """The angle within [-π, π)."""
    return (angle_rad + math.pi) % (2.0 * math.pi) - math.pi
