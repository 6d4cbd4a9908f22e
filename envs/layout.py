"""Drawing a map at random: looks of rooms, doors between them, places of decorations."""

import numpy as np
from jaxtyping import Bool, Int

from envs import palette
from envs.room import Door, MazeMapSettings, Room, Thing

WALL_CLEARANCE = 44  # map units from a wall to a decoration's middle
START_CLEARANCE = 72  # from a wall to a start: nearer, the first frame shows nothing but that wall
DOOR_CLEARANCE = 88  # depth of the ground before an opening that stays free
DOOR_SIDE = 24  # to the sides of that ground
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
        count = int(rng.integers(settings.decorations[0], settings.decorations[1] + 1))
        kinds = rng.permutation(len(palette.DECORATIONS))[:count]
        places = _places(room, WALL_CLEARANCE)
        for door in doors:
            if room.index in (door.first, door.second):
                places = places[~_before(door, places)]
        for kind in kinds:
            if len(places):
                x, y = (int(value) for value in places[int(rng.integers(len(places)))])
                things.append(Thing(room=room.index, x=x, y=y, kind=palette.DECORATIONS[int(kind)]))
                places = places[_apart(places, x, y)]
    return tuple(things)


def _places(room: Room, clearance: int) -> Int[np.ndarray, "places 2"]:
    """Return x, y of places 8 units apart in the room that are this far from its walls."""
    x0, y0, x1, y1 = room.box
    x, y = np.meshgrid(
        np.arange(x0 + clearance, x1 - clearance + 1, 8), np.arange(y0 + clearance, y1 - clearance + 1, 8)
    )
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _before(door: Door, places: Int[np.ndarray, "places 2"]) -> Bool[np.ndarray, "places"]:
    """Say which places lie on the ground before (or behind) an opening."""
    reach_x, reach_y = (DOOR_CLEARANCE, DOOR_SIDE) if door.eastward else (DOOR_SIDE, DOOR_CLEARANCE)
    x0, y0, x1, y1 = door.box
    x, y = places.T  # numpy is slow along short last axes
    return (x0 - reach_x < x) & (x < x1 + reach_x) & (y0 - reach_y < y) & (y < y1 + reach_y)


def _apart(places: Int[np.ndarray, "places 2"], x: int, y: int) -> Bool[np.ndarray, "places"]:
    return (places[:, 0] - x) ** 2 + (places[:, 1] - y) ** 2 >= THING_CLEARANCE**2


def free_place(rng: np.random.Generator, room: Room, things: list[Thing]) -> tuple[int, int]:
    """Draw a place in the room's middle half, clear of these decorations as far as there is one."""
    clearance = min(START_CLEARANCE, (room.box[2] - room.box[0]) // 2)
    places = _places(room, clearance)
    for thing in things:
        kept = places[_apart(places, thing.x, thing.y)]
        places = kept if len(kept) else places
    x, y = places[int(rng.integers(len(places)))]
    return int(x), int(y)
