"""A scripted player that explores a maze map and keeps coming back to where it has been."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from envs.maze_map import MazeMap
from envs.route import (
    Waypoint,
    door_points,
    free_ahead,
    heading_around,
    leads_through,
    place_in,
    rooms_between,
)


@dataclass(frozen=True, kw_only=True)
class ExplorerSettings:
    """How often the player does what. Weights need not add up to one.

    new, back, short, long, near: weights of the next room: an unseen one (the nearest), the one just left, one
    last seen `short_steps` ago, one last seen `long_steps` ago, any neighbour; look, wander, fidget, pause: chance
    of a look around, a walk within the room, a spell of random keys, a rest, each time a place is reached.
    """

    new: float = 0.36
    back: float = 0.2
    short: float = 0.14
    long: float = 0.2
    near: float = 0.1
    short_steps: tuple[int, int] = (20, 60)
    long_steps: tuple[int, int] = (100, 400)
    look: float = 0.22
    wander: float = 0.15
    fidget: float = 0.25
    pause: float = 0.05

    def __post_init__(self) -> None:
        for name in ("new", "back", "short", "long", "near", "look", "wander", "fidget", "pause"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)} is not within 0..1")
        if self.near == 0.0:
            raise ValueError("near 0.0 leaves no room to go to at times; give a weight above 0")


@dataclass(frozen=True, kw_only=True)
class _Gait:
    """How one leg is walked: where the player looks relative to the way, how steadily the keys are held."""

    facing_rad: float
    steadiness: float
    lazy_deg: float


@dataclass
class _Spell:
    """A stretch of keys that ignores the route: turning by an angle, or keys held at random, or resting."""

    kind: str
    steps: int
    turn_deg: float = 0.0
    strafe: int = 0


class Explorer:
    """A policy from poses to actions, deterministic in its seed and the poses.

    It walks from room to room through doors, mostly to rooms it has not seen, often back; on the way it looks
    around, strafes, walks backwards, rests, and frees itself when it gets stuck.
    """

    def __init__(self, maze_map: MazeMap, seed: int, settings: ExplorerSettings | None = None):
        self.maze_map = maze_map
        self.settings = settings or ExplorerSettings()
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._last_seen: dict[int, int] = {}
        self._step = 0
        self._room = -1
        self._previous_room = -1
        self._way: deque[Waypoint] = deque()
        self._spells: deque[_Spell] = deque()
        self._gait = self._draw_gait()
        self._keys = np.zeros(3, np.int64)
        self._places: deque[tuple[float, float, float]] = deque(maxlen=5)
        self._pushing = 0
        self._waypoint_age = 0

    def act(self, pose: Float32[np.ndarray, "4"]) -> Int64[np.ndarray, "3"]:
        """Return the next action for a pose (x, y, z in map units, yaw in degrees)."""
        x, y, yaw_deg = float(pose[0]), float(pose[1]), float(pose[3])
        self._notice(x, y, yaw_deg)
        if self._is_stuck():
            self._free_self()
        if not self._spells and not self._way:
            self._decide()
        keys = self._spell_keys(x, y, yaw_deg) if self._spells else self._walk_keys(x, y, yaw_deg)
        self._keys = np.array(keys, np.int64)
        self._pushing = self._pushing + 1 if (keys[0] or keys[2]) else 0
        self._step += 1
        return self._keys.copy()

    def _notice(self, x: float, y: float, yaw_deg: float) -> None:
        room = self.maze_map.room_at(x, y)
        if room != self._room:
            self._previous_room, self._room = self._room, room
        self._last_seen[room] = self._step
        self._places.append((x, y, yaw_deg))
        while self._way and self._is_reached(x, y):
            self._way.popleft()
            self._waypoint_age = 0
            if self._rng.random() < 0.3:
                self._gait = self._draw_gait()

    def _is_reached(self, x: float, y: float) -> bool:
        target = self._way[0]
        if target.door is not None and leads_through(target.door, x, y, self._way[1]):
            return True
        return math.hypot(target.x - x, target.y - y) < target.radius

    def _is_stuck(self) -> bool:
        if self._spells:
            return False
        self._waypoint_age += 1
        if self._waypoint_age > 60:
            return True
        if self._pushing < 5 or len(self._places) < 5:
            return False
        (x0, y0, _), (x1, y1, _) = self._places[0], self._places[-1]
        return math.hypot(x1 - x0, y1 - y0) < 12.0

    def _free_self(self) -> None:
        """Step away with other keys than those that led here, then plan anew."""
        self._way.clear()
        self._waypoint_age = 0
        self._pushing = 0
        self._spells.append(_Spell(kind="free", steps=int(self._rng.integers(2, 5))))
        self._keys = np.array([3 - v if v else int(self._rng.integers(3)) for v in self._keys], np.int64)
        self._way.append(place_in(self.maze_map, self._room, self._rng))

    def _decide(self) -> None:
        """At a place: look around, fidget, rest, or not; then go somewhere."""
        s, rng = self.settings, self._rng
        if rng.random() < s.look:
            angle = 90.0 * int(rng.choice([1, 1, 1, 2, 2, 3, 4])) * (1 if rng.random() < 0.5 else -1)
            strafe = int(rng.integers(1, 3)) if rng.random() < 0.2 else 0
            self._spells.append(_Spell(kind="turn", steps=60, turn_deg=angle, strafe=strafe))
            if rng.random() < 0.3:
                self._spells.append(
                    _Spell(kind="turn", steps=60, turn_deg=-angle, strafe=3 - strafe if strafe else 0)
                )
        if rng.random() < s.fidget:
            self._spells.append(_Spell(kind="fidget", steps=int(rng.integers(4, 14))))
        if rng.random() < s.pause:
            self._spells.append(_Spell(kind="rest", steps=int(rng.integers(2, 9))))
        if rng.random() < s.wander:
            self._way.append(place_in(self.maze_map, self._room, rng))
        else:
            self._plan_way(self._draw_room())
        self._gait = self._draw_gait()
        self._waypoint_age = 0

    def _draw_room(self) -> int:
        """Draw the next room to go to; kinds that no room answers to are left out."""
        s, near = self.settings, list(self.maze_map.neighbours[self._room])
        ago = {room: self._step - step for room, step in self._last_seen.items() if room != self._room}
        unseen = [room.index for room in self.maze_map.rooms if room.index not in self._last_seen]
        short = [room for room, steps in ago.items() if s.short_steps[0] <= steps <= s.short_steps[1]]
        long = [room for room, steps in ago.items() if s.long_steps[0] <= steps <= s.long_steps[1]]
        back = [self._previous_room] if self._previous_room >= 0 else []
        options = [(s.new, unseen), (s.back, back), (s.short, short), (s.long, long), (s.near, near)]
        weights = np.array([weight if rooms else 0.0 for weight, rooms in options])
        chosen = int(self._rng.choice(len(options), p=weights / weights.sum()))
        rooms = options[chosen][1]
        if chosen == 0:
            lengths = [len(rooms_between(self.maze_map, self._room, room, self._rng)) for room in rooms]
            rooms = [room for room, length in zip(rooms, lengths, strict=True) if length == min(lengths)]
        return rooms[int(self._rng.integers(len(rooms)))]

    def _plan_way(self, goal: int) -> None:
        room = self._room
        for following in rooms_between(self.maze_map, room, goal, self._rng):
            self._way += door_points(self.maze_map.neighbours[room][following], room, self._rng)
            room = following
        self._way.append(place_in(self.maze_map, goal, self._rng))

    def _draw_gait(self) -> _Gait:
        rng = self._rng
        angles, shares = [0.0, 45.0, 90.0, 135.0, 180.0], [0.69, 0.1, 0.07, 0.07, 0.07]
        facing = float(rng.choice(angles, p=shares)) * (1.0 if rng.random() < 0.5 else -1.0)
        steadiness = float(rng.choice([1.0, 0.8, 0.55], p=[0.6, 0.25, 0.15]))
        return _Gait(
            facing_rad=math.radians(facing), steadiness=steadiness, lazy_deg=float(rng.uniform(45.0, 120.0))
        )

    def _walk_keys(self, x: float, y: float, yaw_deg: float) -> tuple[int, int, int]:
        """Return keys that walk towards the next waypoint in the present gait."""
        if not self._way:
            return 0, 0, 0
        target, yaw = self._way[0], math.radians(yaw_deg)
        heading = math.atan2(target.y - y, target.x - x)
        heading = heading_around(self.maze_map.things_of[self._room], x, y, heading)
        error_deg = math.degrees(_wrap(heading + self._gait.facing_rad - yaw))
        # A turn lasts until it is done, and does not begin for a few degrees: no trembling about the heading.
        tolerance_deg = 8.0 if self._keys[1] else 20.0
        turn = 0 if abs(error_deg) < tolerance_deg else (1 if error_deg > 0 else 2)
        if abs(error_deg) > self._gait.lazy_deg or self._rng.random() > self._gait.steadiness:
            return 0, turn, 0
        forward, left = math.cos(heading - yaw), math.sin(heading - yaw)
        move = 0 if abs(forward) < 0.38 else (1 if forward > 0 else 2)
        strafe = 0 if abs(left) < 0.38 else (1 if left > 0 else 2)
        return move, turn, strafe

    def _spell_keys(self, x: float, y: float, yaw_deg: float) -> tuple[int, int, int]:
        spell = self._spells[0]
        spell.steps -= 1
        keys = (0, 0, 0)
        if spell.kind == "turn":
            if len(self._places) > 1 and self._keys[1]:
                spell.turn_deg -= math.degrees(_wrap(math.radians(yaw_deg - self._places[-2][2])))
            if abs(spell.turn_deg) < 8.0:
                spell.steps = 0
            elif self._rng.random() > 0.06:
                keys = (0, 1 if spell.turn_deg > 0 else 2, spell.strafe)
        elif spell.kind == "fidget":
            keys = self._fidget_keys(x, y, yaw_deg)
        elif spell.kind == "free":
            keys = (int(self._keys[0]), int(self._keys[1]), int(self._keys[2]))
        if spell.steps <= 0:
            self._spells.popleft()
        return keys

    def _fidget_keys(self, x: float, y: float, yaw_deg: float) -> tuple[int, int, int]:
        """Hold random keys, changing each now and then; no step towards a wall close by."""
        fresh = self._rng.random(3) < 0.35
        keys = np.where(fresh, self._rng.integers(0, 3, 3), self._keys)
        move, turn, strafe = (int(key) for key in keys)
        yaw = math.radians(yaw_deg)
        if free_ahead(self.maze_map, x, y, yaw) < 72.0:
            turn = turn or 1  # look elsewhere
        if move and free_ahead(self.maze_map, x, y, yaw + math.pi * (move - 1)) < 72.0:
            move = 0
        if strafe and free_ahead(self.maze_map, x, y, yaw - math.pi * (strafe - 1.5)) < 48.0:
            strafe = 0
        return move, turn, strafe


def _wrap(angle_rad: float) -> float:
    """Return the angle within [-π, π)."""
    return (angle_rad + math.pi) % (2.0 * math.pi) - math.pi
