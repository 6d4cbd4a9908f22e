"""Routes that leave a view and come back to it, in the ways that tell memories apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Int64

from envs.explorer import Explorer
from envs.guide import Face, Go, Guide, Rest, Stop, Wander
from envs.maze_map import MazeMap
from envs.route import WALL_STANDOFF, Waypoint, place_in, rooms_between

RouteKind = Literal["look-away", "out-and-back", "loop", "re-entry", "twins", "never-visited"]
"""look-away: turn away and back; out-and-back: to another room and back by the same doors (ABA); loop: back by other doors
to the same view (ABCA); re-entry: back by another door, to a view in another direction; twins: two rooms that look the
same, then the first again; never-visited: into a room not seen before"""
KINDS: tuple[RouteKind, ...] = get_args(RouteKind)
NEAR = 20.0
"""Map units within which a place counts as reached: a view returned to must be the same view."""
SETTLE = 4
"""Steps of rest before a view is left: the player slides on for some."""
STAY = 18
"""Steps of rest after the return: what is to be compared."""
WARM_UP = 60
"""Steps of exploring before the first route."""
ASIDE = (16.0, 40.0)
"""Map units, fewest and most, from the view left to the one come back to, on half of the routes; one turned by up to
ASIDE_DEG either way. On the others it is the very view: there the best recalled frame would only have to be copied."""
ASIDE_DEG = 14.0
WANDER = (4, 400)
"""Fewest and most steps away, drawn evenly on a logarithmic scale."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """Stops, and which of them begins the return."""

    kind: RouteKind
    stops: tuple[Stop, ...]
    back: int


@dataclass(frozen=True, kw_only=True)
class Walked:
    """A route that has been walked: steps at which it began, the return began, and it was over."""

    kind: RouteKind
    begun: int
    back: int
    over: int


def draw_route(
    kind: RouteKind, maze_map: MazeMap, room: int, seen: Sequence[int], rng: np.random.Generator
) -> Route | None:
    """Draw a route of this kind for a player in a room that has seen these rooms; None where the map has none."""
    place, yaw_deg = _place(maze_map, room, rng), float(rng.integers(72) * 5)
    away = _away(rng)
    arrive: list[Stop] = [Go(room=room, place=place), Face(yaw_deg=yaw_deg), Rest(steps=SETTLE)]
    near, near_deg = _aside(maze_map, room, place, yaw_deg, rng)
    stay: list[Stop] = [Face(yaw_deg=near_deg), Rest(steps=STAY)]
    if kind == "look-away":
        turned = yaw_deg + float(rng.choice([-1, 1])) * float(rng.integers(60, 181))
        step: list[Stop] = [] if near is place else [Go(room=room, place=near)]
        return _route(kind, [*arrive, Face(yaw_deg=turned), Rest(steps=max(1, away // 8))], [*step, *stay])
    if kind == "out-and-back":
        goal = int(rng.choice([other.index for other in maze_map.rooms if other.index != room]))
        way = rooms_between(maze_map, room, goal, rng)
        there = Go(room=goal, place=_place(maze_map, goal, rng), through=tuple(way))
        home = Go(room=room, place=near, through=(*way[-2::-1], room))
        return _route(kind, [*arrive, there, *_wander(away, goal, there.place)], [home, *stay])
    if kind == "never-visited":
        unseen = [other.index for other in maze_map.rooms if other.index not in seen]
        if not unseen:
            return None
        goal = int(rng.choice(unseen))
        return _route(kind, arrive, [Go(room=goal, place=_place(maze_map, goal, rng)), Rest(steps=STAY)])
    if kind == "twins":
        return _twins(maze_map, away, rng)
    return _round(kind, maze_map, room, arrive, away, rng)


def _aside(
    maze_map: MazeMap, room: int, place: Waypoint, yaw_deg: float, rng: np.random.Generator
) -> tuple[Waypoint, float]:
    """The view to come back to: the very one, or one beside it, away from the walls."""
    turned, distance, angle = (
        rng.uniform(-ASIDE_DEG, ASIDE_DEG),
        rng.uniform(*ASIDE),
        rng.uniform(0.0, math.tau),
    )
    if rng.random() < 0.5:
        return place, yaw_deg
    x0, y0, x1, y1 = maze_map.rooms[room].box
    x = min(max(place.x + distance * math.cos(angle), x0 + WALL_STANDOFF), x1 - WALL_STANDOFF)
    y = min(max(place.y + distance * math.sin(angle), y0 + WALL_STANDOFF), y1 - WALL_STANDOFF)
    return Waypoint(x=x, y=y, radius=NEAR), yaw_deg + turned


def _route(kind: RouteKind, there: list[Stop], back: list[Stop]) -> Route:
    return Route(kind=kind, stops=(*there, *back), back=len(there))


def _away(rng: np.random.Generator) -> int:
    low, high = (math.log(steps) for steps in WANDER)
    return round(math.exp(rng.uniform(low, high)))


def _wander(steps: int, room: int, place: Waypoint) -> list[Stop]:
    """Explore, and come back to where that began: from there the way home is known."""
    return [Wander(steps=steps), Go(room=room, place=place)]


def _place(maze_map: MazeMap, room: int, rng: np.random.Generator) -> Waypoint:
    drawn = place_in(maze_map, room, rng)
    return Waypoint(x=drawn.x, y=drawn.y, radius=NEAR)


def _round(
    kind: RouteKind, maze_map: MazeMap, room: int, arrive: list[Stop], away: int, rng: np.random.Generator
) -> Route | None:
    """Out by one door and back by another."""
    doors = [int(other) for other in maze_map.neighbours[room]]
    ways = [
        [*way, room]
        for first in doors
        for last in doors
        if first != last and (way := _way_past(maze_map, first, last, room, rng)) is not None
    ]
    if not ways:
        return None
    way = ways[int(rng.integers(len(ways)))]
    first = way[0]
    there = Go(room=first, place=_place(maze_map, first, rng))
    go, face = arrive[0], arrive[1]
    assert isinstance(go, Go)
    assert isinstance(face, Face)
    yaws = [face.yaw_deg + angle for angle in ((120.0, 240.0, 360.0) if kind == "re-entry" else ())]
    looked: list[Stop] = [stop for yaw_deg in yaws for stop in (Face(yaw_deg=yaw_deg), Rest(steps=SETTLE))]
    seen_deg = face.yaw_deg + (float(rng.choice([120.0, 240.0])) if yaws else 0.0)
    near, near_deg = _aside(maze_map, room, go.place, seen_deg, rng)
    home: list[Stop] = [
        Go(room=room, place=near, through=tuple(way[1:])),
        Face(yaw_deg=near_deg),
        Rest(steps=STAY),
    ]
    return _route(kind, [*arrive, *looked, there, *_wander(away, first, there.place)], home)


def _way_past(
    maze_map: MazeMap, first: int, last: int, room: int, rng: np.random.Generator
) -> list[int] | None:
    """Rooms from the first to the last, both included, that do not lead through the room; None where there are none."""
    try:
        return [first, *rooms_between(maze_map, first, last, rng, without=room)]
    except ValueError:
        return None


def _twins(maze_map: MazeMap, away: int, rng: np.random.Generator) -> Route | None:
    """To one twin, to the other, and to the first again: the same place in both, looking the same way."""
    if maze_map.twins is None:
        return None
    first, second = (maze_map.twins[i] for i in rng.permutation(2))
    place, yaw_deg = _place(maze_map, first, rng), float(rng.integers(72) * 5)
    (x, y), (other_x, other_y) = maze_map.rooms[first].box[:2], maze_map.rooms[second].box[:2]
    other = Waypoint(x=place.x + other_x - x, y=place.y + other_y - y, radius=NEAR)
    look: list[Stop] = [Face(yaw_deg=yaw_deg), Rest(steps=SETTLE)]
    there: list[Stop] = [Go(room=first, place=place), *look, Go(room=second, place=other), *look]
    near, near_deg = _aside(maze_map, first, place, yaw_deg, rng)
    home: list[Stop] = [Go(room=first, place=near), Face(yaw_deg=near_deg), Rest(steps=STAY)]
    return _route("twins", [*there, *_wander(away // 4 + 1, second, other)], home)


class Commuter:
    """A policy that walks one route after another, the kinds in turn, and keeps what it has walked.

    Deterministic in its seed and the poses. A kind that the map has no route of, there and then, is passed over; where
    it has none of any kind the player explores for a while.
    """

    def __init__(self, maze_map: MazeMap, seed: int, kinds: Sequence[RouteKind] = KINDS) -> None:
        """ValueError for no kinds."""
        if not kinds:
            raise ValueError(f"no kinds of routes; give some of {', '.join(KINDS)}")
        self.maze_map, self.kinds, self._seed = maze_map, tuple(kinds), seed
        self._rng = np.random.Generator(np.random.PCG64([seed, 1]))
        self._warm_up = Explorer(maze_map, seed)
        self._guide: Guide | None = None
        self._route: Route | None = None
        self._turn = int(self._rng.integers(len(self.kinds)))
        self._begun = self._back = self._step = 0
        self._seen: list[int] = []
        self.walked: list[Walked] = []

    def act(self, pose: Float32[np.ndarray, "4"]) -> Int64[np.ndarray, "3"]:
        """Return the next action for a pose (x, y, z in map units, yaw in degrees)."""
        room = self.maze_map.room_at(float(pose[0]), float(pose[1]))
        if room not in self._seen:
            self._seen.append(room)
        action = self._warm_up.act(pose) if self._step < WARM_UP else self._follow(pose, room)
        self._step += 1
        return action

    def _follow(self, pose: Float32[np.ndarray, "4"], room: int) -> Int64[np.ndarray, "3"]:
        guide = self._guide or self._set_out(room)
        before = guide.at
        action, route = guide.act(pose), self._route
        if route is not None and before < route.back <= guide.at:
            self._back = self._step
        if guide.done:
            if route is not None:
                walked = Walked(kind=route.kind, begun=self._begun, back=self._back, over=self._step)
                self.walked.append(walked)
            self._guide = None
        return action

    def _set_out(self, room: int) -> Guide:
        """Draw the next route; exploring where the map has none of any kind."""
        self._begun = self._back = self._step
        self._route = None
        for _ in self.kinds:
            kind = self.kinds[self._turn % len(self.kinds)]
            self._turn += 1
            self._route = draw_route(kind, self.maze_map, room, self._seen, self._rng)
            if self._route is not None:
                break
        stops = (Wander(steps=WARM_UP),) if self._route is None else self._route.stops
        self._guide = Guide(self.maze_map, int(self._rng.integers(1 << 31)), stops)
        return self._guide
