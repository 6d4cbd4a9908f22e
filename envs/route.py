"""Ways through a maze map: rooms to pass, points to walk through, free directions."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from envs.maze_map import MazeMap
from envs.room import PLAYER_RADIUS, Door, Thing

DOOR_STANDOFF = 60.0  # map units from an opening to the points before and behind it
WALL_STANDOFF = 84.0  # from a wall to a place to stop at: nearer, a wall fills the view


@dataclass(frozen=True, kw_only=True)
class Waypoint:
    """A point to walk through, how near counts as there, in map units, and the door that comes next, if any."""

    x: float
    y: float
    radius: float
    door: Door | None = None


def rooms_between(
    maze_map: MazeMap, start: int, end: int, rng: np.random.Generator, without: int | None = None
) -> list[int]:
    """Return the rooms of one shortest way, `start` left out; ties are broken at random.

    ValueError where no way leads there, or none that does not pass room `without`.
    """
    came_from = {start: start} if without is None else {start: start, without: without}
    queue = deque([start])
    while queue and end not in came_from:
        room = queue.popleft()
        near = list(maze_map.neighbours[room])
        for number in rng.permutation(len(near)):
            if near[number] not in came_from:
                came_from[near[number]] = room
                queue.append(near[number])
    if end not in came_from:
        raise ValueError(
            f"room {end} cannot be reached from room {start}; the map's doors do not connect them"
        )
    rooms = []
    while end != start:
        rooms.append(end)
        end = came_from[end]
    return rooms[::-1]


def door_points(door: Door, out_of: int, rng: np.random.Generator) -> list[Waypoint]:
    """Return a point before and a point behind the opening, leaving room `out_of` straight through it."""
    x, y = door.centre
    shift = float(rng.uniform(-22.0, 22.0))
    reach = DOOR_STANDOFF + 16.0
    sign = 1.0 if out_of == door.first else -1.0
    if door.eastward:
        ends = [(x - sign * reach, y + shift), (x + sign * reach, y + shift)]
    else:
        ends = [(x + shift, y - sign * reach), (x + shift, y + sign * reach)]
    (before_x, before_y), (behind_x, behind_y) = ends
    return [
        Waypoint(x=before_x, y=before_y, radius=30.0, door=door),
        Waypoint(x=behind_x, y=behind_y, radius=34.0),
    ]


def leads_through(door: Door, x: float, y: float, target: Waypoint) -> bool:
    """Say whether the straight line from (x, y) to the target passes the opening well clear of its jambs."""
    x0, y0, x1, y1 = door.box
    low, high = (x0, x1) if door.eastward else (y0, y1)
    centre = door.centre[1] if door.eastward else door.centre[0]
    start, end = ((x, y), (target.x, target.y)) if door.eastward else ((y, x), (target.y, target.x))
    if (start[0] - low) * (end[0] - high) >= 0.0 and (start[0] - high) * (end[0] - low) >= 0.0:
        return False
    slope = (end[1] - start[1]) / (end[0] - start[0])
    return all(abs(start[1] + slope * (plane - start[0]) - centre) < 36.0 for plane in (low, high))


def place_in(maze_map: MazeMap, room: int, rng: np.random.Generator) -> Waypoint:
    """Draw a place in the room away from its walls and clear of its decorations."""
    x0, y0, x1, y1 = maze_map.rooms[room].box
    things = maze_map.things_of[room]
    for _ in range(20):
        x = float(rng.uniform(x0 + WALL_STANDOFF, x1 - WALL_STANDOFF))
        y = float(rng.uniform(y0 + WALL_STANDOFF, y1 - WALL_STANDOFF))
        if all(math.hypot(x - thing.x, y - thing.y) > thing.kind.radius + 40.0 for thing in things):
            break
    return Waypoint(x=x, y=y, radius=44.0)


def heading_around(things: list[Thing], x: float, y: float, heading_rad: float) -> float:
    """Return the heading bent aside where a decoration stands in the way, in radians."""
    for thing in things:
        dx, dy = thing.x - x, thing.y - y
        along = dx * math.cos(heading_rad) + dy * math.sin(heading_rad)
        left = dy * math.cos(heading_rad) - dx * math.sin(heading_rad)
        need = thing.kind.radius + PLAYER_RADIUS + 14.0
        if 0.0 < along < 120.0 and abs(left) < need:
            side = -1.0 if left > 0.0 else 1.0
            heading_rad += side * math.atan2(need - abs(left), max(along - need, 12.0))
    return heading_rad


def free_ahead(maze_map: MazeMap, x: float, y: float, heading_rad: float) -> float:
    """Return the distance to the room's wall along a heading; infinite where the way leads through a door."""
    room = maze_map.room_at(x, y)
    x0, y0, x1, y1 = maze_map.rooms[room].box
    dx, dy = math.cos(heading_rad), math.sin(heading_rad)
    across = ((x1 if dx > 0 else x0) - x) / dx if abs(dx) > 1e-6 else math.inf
    along = ((y1 if dy > 0 else y0) - y) / dy if abs(dy) > 1e-6 else math.inf
    distance = max(min(across, along), 0.0)
    hit_x, hit_y = x + dx * distance, y + dy * distance
    for door in maze_map.neighbours[room].values():
        d0, d1, d2, d3 = door.box
        if d0 - 2.0 <= hit_x <= d2 + 2.0 and d1 - 2.0 <= hit_y <= d3 + 2.0:
            return math.inf
    return distance
