"""A scripted player that explores a maze map and keeps coming back to where it has been."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from envs.maze_map import MazeMap
from envs.route import free_ahead, place_in, rooms_between
from envs.walker import Gait, Walker


@dataclass(frozen=True, kw_only=True)
class ExplorerSettings:
    """How often the player does what. Weights need not add up to one.

    new, back, short, long, near: weights of the next room: an unseen one (the nearest), the one just left, one
    last seen `short_steps` ago, one last seen `long_steps` ago, any neighbour; look, wander, fidget, pause: chance
    of a look around, a walk within the room, a spell of random keys, a rest, each time a place is reached; lean: the same
    of holding one key, whatever stands in the way, and perhaps standing there for a while, as people do.
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
    lean: float = 0.0

    def __post_init__(self) -> None:
        for name in ("new", "back", "short", "long", "near", "look", "wander", "fidget", "pause", "lean"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)} is not within 0..1")
        if self.near == 0.0:
            raise ValueError("near 0.0 leaves no room to go to at times; give a weight above 0")


@dataclass
class _Spell:
    """A stretch of keys that ignores the route: turning by an angle, keys held at random, certain keys held, or resting."""

    kind: str
    steps: int
    keys: tuple[int, int, int] = (0, 0, 0)
    turn_deg: float = 0.0


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
        self._previous_room = -1
        self._spells: deque[_Spell] = deque()
        self._walker = Walker(maze_map, self._rng)

    def act(self, pose: Float32[np.ndarray, "4"]) -> Int64[np.ndarray, "3"]:
        """Return the next action for a pose (x, y, z in map units, yaw in degrees)."""
        x, y, yaw_deg = float(pose[0]), float(pose[1]), float(pose[3])
        self._notice(x, y, yaw_deg)
        walker = self._walker
        if not self._spells and walker.is_stuck():
            self._spells.append(_Spell(kind="free", steps=int(self._rng.integers(2, 5))))
            walker.free()
        if not self._spells and not walker.way:
            self._decide()
        keys = self._spell_keys(x, y, yaw_deg) if self._spells else walker.walk_keys(x, y, yaw_deg)
        self._step += 1
        return walker.press(keys)

    def _notice(self, x: float, y: float, yaw_deg: float) -> None:
        room = self._walker.room
        self._walker.see(x, y, yaw_deg)
        if self._walker.room != room:
            self._previous_room = room
        self._last_seen[self._walker.room] = self._step

    def _decide(self) -> None:
        """At a place: look around, fidget, rest, or not; then go somewhere."""
        s, rng = self.settings, self._rng
        if rng.random() < s.look:
            angle = 90.0 * int(rng.choice([1, 1, 1, 2, 2, 3, 4])) * (1 if rng.random() < 0.5 else -1)
            strafe = int(rng.integers(1, 3)) if rng.random() < 0.2 else 0
            self._spells.append(_Spell(kind="turn", steps=60, turn_deg=angle, keys=(0, 0, strafe)))
            if rng.random() < 0.3:
                back = (0, 0, 3 - strafe if strafe else 0)
                self._spells.append(_Spell(kind="turn", steps=60, turn_deg=-angle, keys=back))
        if rng.random() < s.fidget:
            self._spells.append(_Spell(kind="fidget", steps=int(rng.integers(4, 14))))
        if rng.random() < s.pause:
            self._spells.append(_Spell(kind="hold", steps=int(rng.integers(2, 9))))
        # No draw where nobody leans: those walks are as they were before there was leaning.
        if s.lean and rng.random() < s.lean:
            self._lean()
        walker = self._walker
        if rng.random() < s.wander:
            walker.set_off([place_in(self.maze_map, walker.room, rng)])
        else:
            walker.go_to(self._draw_room())
        walker.gait = Gait.draw(rng)

    def _lean(self) -> None:
        """Hold one of the four moves, mostly forward, for longer than the room is wide; now and then stand there."""
        rng = self._rng
        keys = [(1, 0, 0), (2, 0, 0), (0, 0, 1), (0, 0, 2)][int(rng.choice(4, p=[0.7, 0.1, 0.1, 0.1]))]
        self._spells.append(_Spell(kind="hold", steps=int(rng.integers(20, 60)), keys=keys))
        if rng.random() < 0.5:
            self._spells.append(_Spell(kind="hold", steps=int(rng.integers(10, 50))))

    def _draw_room(self) -> int:
        """Draw the next room to go to; kinds that no room answers to are left out."""
        s, near = self.settings, list(self.maze_map.neighbours[self._walker.room])
        ago = {room: self._step - step for room, step in self._last_seen.items() if room != self._walker.room}
        unseen = [room.index for room in self.maze_map.rooms if room.index not in self._last_seen]
        short = [room for room, steps in ago.items() if s.short_steps[0] <= steps <= s.short_steps[1]]
        long = [room for room, steps in ago.items() if s.long_steps[0] <= steps <= s.long_steps[1]]
        back = [self._previous_room] if self._previous_room >= 0 else []
        options = [(s.new, unseen), (s.back, back), (s.short, short), (s.long, long), (s.near, near)]
        weights = np.array([weight if rooms else 0.0 for weight, rooms in options])
        chosen = int(self._rng.choice(len(options), p=weights / weights.sum()))
        rooms = options[chosen][1]
        if chosen == 0:
            lengths = [
                len(rooms_between(self.maze_map, self._walker.room, room, self._rng)) for room in rooms
            ]
            rooms = [room for room, length in zip(rooms, lengths, strict=True) if length == min(lengths)]
        return rooms[int(self._rng.integers(len(rooms)))]

    def _spell_keys(self, x: float, y: float, yaw_deg: float) -> tuple[int, int, int]:
        spell = self._spells[0]
        spell.steps -= 1
        keys = spell.keys if spell.kind == "hold" else (0, 0, 0)
        if spell.kind == "turn":
            if self._walker.keys[1]:
                spell.turn_deg -= self._walker.turned_deg()
            if abs(spell.turn_deg) < 8.0:
                spell.steps = 0
            elif self._rng.random() > 0.06:
                keys = (0, 1 if spell.turn_deg > 0 else 2, spell.keys[2])
        elif spell.kind == "fidget":
            keys = self._fidget_keys(x, y, yaw_deg)
        elif spell.kind == "free":
            move, turn, strafe = (int(key) for key in self._walker.keys)
            keys = (move, turn, strafe)
        if spell.steps <= 0:
            self._spells.popleft()
        return keys

    def _fidget_keys(self, x: float, y: float, yaw_deg: float) -> tuple[int, int, int]:
        """Hold random keys, changing each now and then; no step towards a wall close by."""
        fresh = self._rng.random(3) < 0.35
        keys = np.where(fresh, self._rng.integers(0, 3, 3), self._walker.keys)
        move, turn, strafe = (int(key) for key in keys)
        yaw = math.radians(yaw_deg)
        if free_ahead(self.maze_map, x, y, yaw) < 72.0:
            turn = turn or 1  # look elsewhere
        if move and free_ahead(self.maze_map, x, y, yaw + math.pi * (move - 1)) < 72.0:
            move = 0
        if strafe and free_ahead(self.maze_map, x, y, yaw - math.pi * (strafe - 1.5)) < 48.0:
            strafe = 0
        return move, turn, strafe
