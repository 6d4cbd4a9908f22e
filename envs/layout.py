"""Drawing a map at random: looks of rooms, doors between them, places of decorations."""

import numpy as np

from envs import palette
from envs.room import Door, MazeMapSettings, Room, Thing

WALL_CLEARANCE = 44  # map units from a wall to a decoration's middle, and to a start
DOOR_CLEARANCE = 88  # depth of the ground before an opening that stays free
THING_CLEARANCE = 80  # between two decorations, and from a decoration to a start


def draw_rooms(
    rng: np.random.Generator, settings: MazeMapSettings, rows: int, columns: int
) -> tuple[Room, ...]:
    """Draw rows × columns rooms, row by row; a wall repeats only where there are more rooms than walls."""
    walls = _draw_walls(rng, rows, columns)
    side = settings.cell * settings.room_cells
    pitch = side + settings.wall
    rooms: list[Room] = []
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        near = [rooms[index - 1]] if column else []
        near += [rooms[index - columns]] if row else []
        rooms.append(
            Room(
                index=index,
                row=row,
                column=column,
                box=(column * pitch, row * pitch, column * pitch + side, row * pitch + side),
                wall=walls[index],
                floor=_draw_other(rng, palette.FLOORS, [room.floor for room in near]),
                ceiling=_draw_other(rng, palette.CEILINGS, [room.ceiling for room in near]),
                light=int(rng.choice(palette.LIGHTS)),
            )
        )
    return tuple(rooms)


def _draw_walls(rng: np.random.Generator, rows: int, columns: int) -> list[str]:
    """Draw the rooms' walls so that rooms side by side never share a family of looks."""
    pool = list(palette.WALLS)
    count = rows * columns
    while True:
        names: list[str] = []
        while len(names) < count:
            names += [pool[number] for number in rng.permutation(len(pool))]
        families = np.array([palette.WALLS[name] for name in names[:count]]).reshape(rows, columns)
        if not ((families[:, 1:] == families[:, :-1]).any() or (families[1:] == families[:-1]).any()):
            return names[:count]


def _draw_other(rng: np.random.Generator, names: tuple[str, ...], taken: list[str]) -> str:
    return str(rng.choice([name for name in names if name not in taken]))


def draw_doors(
    rng: np.random.Generator, settings: MazeMapSettings, rooms: tuple[Room, ...], columns: int
) -> tuple[Door, ...]:
    """Draw a random spanning tree of doors, and `extra_doors` of the walls left over."""
    pairs = [(room.index, room.index + 1) for room in rooms if room.column + 1 < columns]
    pairs += [(room.index, room.index + columns) for room in rooms if room.index + columns < len(rooms)]
    group = list(range(len(rooms)))

    def root(index: int) -> int:
        while group[index] != index:
            index = group[index]
        return index

    tree, rest = [], []
    for number in rng.permutation(len(pairs)):
        first, second = pairs[number]
        if root(first) == root(second):
            rest.append((first, second))
        else:
            group[root(first)] = root(second)
            tree.append((first, second))
    chosen = sorted(tree + rest[: round(settings.extra_doors * len(rest))])
    return tuple(_draw_door(rng, settings, rooms[first], rooms[second]) for first, second in chosen)


def _draw_door(rng: np.random.Generator, settings: MazeMapSettings, first: Room, second: Room) -> Door:
    """Draw where along the shared wall the opening is: off the middle by up to half a cell."""
    eastward = second.row == first.row
    width = settings.door_cells * settings.cell
    slack = (settings.room_cells - settings.door_cells) * settings.cell // 2
    start = slack + int(rng.integers(-1, 2)) * min(settings.cell // 2, slack)
    x0, y0, x1, y1 = first.box
    if eastward:
        box = (x1, y0 + start, second.box[0], y0 + start + width)
    else:
        box = (x0 + start, y1, x0 + start + width, second.box[1])
    return Door(first=first.index, second=second.index, eastward=eastward, box=box)


def draw_things(
    rng: np.random.Generator, settings: MazeMapSettings, rooms: tuple[Room, ...], doors: tuple[Door, ...]
) -> tuple[Thing, ...]:
    """Draw decorations clear of walls, of each other and of the ground before openings."""
    things: list[Thing] = []
    for room in rooms:
        near = [door for door in doors if room.index in (door.first, door.second)]
        count = int(rng.integers(settings.decorations[0], settings.decorations[1] + 1))
        kinds = rng.permutation(len(palette.DECORATIONS))[:count]
        placed: list[Thing] = []
        for kind in kinds:
            places = [
                place
                for place in _places(room)
                if not any(_before(door, place) for door in near)
                and all(np.hypot(place[0] - t.x, place[1] - t.y) >= THING_CLEARANCE for t in placed)
            ]
            if places:
                x, y = places[int(rng.integers(len(places)))]
                placed.append(Thing(room=room.index, x=x, y=y, kind=palette.DECORATIONS[int(kind)]))
        things += placed
    return tuple(things)


def _places(room: Room) -> list[tuple[int, int]]:
    """Return places 8 units apart in the room, clear of its walls."""
    x0, y0, x1, y1 = room.box
    return [
        (x, y)
        for y in range(y0 + WALL_CLEARANCE, y1 - WALL_CLEARANCE + 1, 8)
        for x in range(x0 + WALL_CLEARANCE, x1 - WALL_CLEARANCE + 1, 8)
    ]


def _before(door: Door, place: tuple[int, int]) -> bool:
    """Say whether a place lies on the ground before (or behind) an opening."""
    x0, y0, x1, y1 = door.box
    along, across = (DOOR_CLEARANCE, 24) if door.eastward else (24, DOOR_CLEARANCE)
    return x0 - along < place[0] < x1 + along and y0 - across < place[1] < y1 + across


def free_place(rng: np.random.Generator, room: Room, things: list[Thing]) -> tuple[int, int]:
    """Draw a place in the room, clear of its walls and of these decorations."""
    places = [
        (x, y)
        for x, y in _places(room)
        if all(np.hypot(x - thing.x, y - thing.y) >= THING_CLEARANCE for thing in things)
    ]
    return places[int(rng.integers(len(places)))]
