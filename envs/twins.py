"""Two rooms of a map made to look the same from inside: appearance alone cannot tell them apart."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from envs.room import Door, Room, Thing


def find_twins(
    rooms: Sequence[Room], doors: Sequence[Door], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Draw two rooms with doors on the same sides and none between them; None where there are no such two."""
    sides = [_sides(room.index, doors) for room in rooms]
    joined = {(door.first, door.second) for door in doors}
    pairs = [
        (first, second)
        for first in range(len(rooms))
        for second in range(first + 1, len(rooms))
        if sides[first] == sides[second] and (first, second) not in joined
    ]
    return pairs[int(rng.integers(len(pairs)))] if pairs else None


def _sides(room: int, doors: Sequence[Door]) -> set[tuple[bool, bool]]:
    """Directions of a room's doors: eastward or northward, and whether out of it or into it."""
    return {(door.eastward, door.first == room) for door in doors if room in (door.first, door.second)}


def look_alike(rooms: Sequence[Room], twins: tuple[int, int]) -> tuple[Room, ...]:
    """The rooms, the second twin with the first one's walls, floor, ceiling and light."""
    first, second = (rooms[index] for index in twins)
    alike = replace(second, wall=first.wall, floor=first.floor, ceiling=first.ceiling, light=first.light)
    return tuple(alike if room is second else room for room in rooms)


def open_alike(doors: Sequence[Door], rooms: Sequence[Room], twins: tuple[int, int]) -> tuple[Door, ...]:
    """The doors, the second twin's where the first one's are along their walls."""
    first, second = twins
    dx, dy = _offset(rooms, twins)
    places = {
        (door.eastward, door.first == first): door.box for door in doors if first in (door.first, door.second)
    }
    moved = []
    for door in doors:
        if second in (door.first, door.second):
            x0, y0, x1, y1 = places[door.eastward, door.first == second]
            door = replace(door, box=(x0 + dx, y0 + dy, x1 + dx, y1 + dy))
        moved.append(door)
    return tuple(moved)


def furnish_alike(
    things: Sequence[Thing], rooms: Sequence[Room], twins: tuple[int, int]
) -> tuple[Thing, ...]:
    """The decorations, the second twin's those of the first."""
    first, second = twins
    dx, dy = _offset(rooms, twins)
    copies = [
        replace(thing, room=second, x=thing.x + dx, y=thing.y + dy) for thing in things if thing.room == first
    ]
    return (*(thing for thing in things if thing.room != second), *copies)


def _offset(rooms: Sequence[Room], twins: tuple[int, int]) -> tuple[int, int]:
    (x, y), (other_x, other_y) = (rooms[index].box[:2] for index in twins)
    return other_x - x, other_y - y
