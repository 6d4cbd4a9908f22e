"""Writing rooms and doors as UDMF (the engine's text form of a map), namespace ZDoom."""

from collections.abc import Sequence
from itertools import pairwise

from envs import palette
from envs.room import Door, MazeMapSettings, Room, Spawn, Thing

Point = tuple[int, int]
_PLAYER = 1  # the editor number of the player's start
_ALWAYS = "".join(f"skill{number}=true;" for number in range(1, 6)) + "single=true;"


class _Textmap:
    """Blocks of a text map under construction; vertices are shared, everything else is appended."""

    def __init__(self) -> None:
        self.vertices: dict[Point, int] = {}
        self.sectors: list[str] = []
        self.sides: list[str] = []
        self.lines: list[str] = []

    def sector(
        self, box: tuple[int, int, int, int], floor: str, ceiling: str, height: int, light: int
    ) -> int:
        """Add a sector whose flats are laid from the box's corner; return its number."""
        shift_x, shift_y = -box[0] % 64, box[3] % 64
        self.sectors.append(
            f'sector{{heightfloor=0;heightceiling={height};texturefloor="{floor}";textureceiling="{ceiling}";'
            f"lightlevel={light};xpanningfloor={shift_x}.0;ypanningfloor={shift_y}.0;"
            f"xpanningceiling={shift_x}.0;ypanningceiling={shift_y}.0;}}"
        )
        return len(self.sectors) - 1

    def vertex(self, point: Point) -> int:
        return self.vertices.setdefault(point, len(self.vertices))

    def side(self, sector: int, offset: int = 0, middle: str = "-", top: str = "-") -> int:
        self.sides.append(
            f'sidedef{{sector={sector};offsetx={offset};texturemiddle="{middle}";texturetop="{top}";}}'
        )
        return len(self.sides) - 1

    def wall(self, start: Point, end: Point, sector: int, texture: str, offset: int) -> None:
        """Add a solid line with the sector on its right."""
        side = self.side(sector, offset, middle=texture)
        self.lines.append(
            f"linedef{{v1={self.vertex(start)};v2={self.vertex(end)};sidefront={side};blocking=true;}}"
        )

    def opening(self, start: Point, end: Point, sector: int, behind: int, texture: str, offset: int) -> None:
        """Add a passable line with the sector on its right, another behind it, a lintel above."""
        front, back = self.side(sector, offset, top=texture), self.side(behind)
        self.lines.append(
            f"linedef{{v1={self.vertex(start)};v2={self.vertex(end)};sidefront={front};sideback={back};"
            "twosided=true;dontpegtop=true;}"
        )


def _add_room(out: _Textmap, room: Room, sector: int, openings: Sequence[tuple[Door, int]]) -> None:
    """Add the room's outline clockwise (the inside is on the right), broken by its openings."""
    x0, y0, x1, y1 = room.box
    corners = [(x0, y0), (x0, y1), (x1, y1), (x1, y0), (x0, y0)]
    for start, end in pairwise(corners):
        level = start[0] == end[0]  # a west or east wall
        along = 1 if level else 0
        sign = 1 if end[along] > start[along] else -1
        cuts = []
        for door, behind in openings:
            d0, d1 = (door.box[0], door.box[2]) if level else (door.box[1], door.box[3])
            if start[1 - along] in (d0, d1) and door.eastward == level:
                span = sorted((door.box[along], door.box[along + 2]), reverse=sign < 0)
                cuts.append((span[0], span[1], behind))
        at = start[along]
        for first, last, behind in sorted(cuts, reverse=sign < 0):
            _add_solid(out, start, along, at, first, sector, room.wall)
            out.opening(
                _on(start, along, first),
                _on(start, along, last),
                sector,
                behind,
                room.wall,
                abs(first - start[along]),
            )
            at = last
        _add_solid(out, start, along, at, end[along], sector, room.wall)


def _add_solid(
    out: _Textmap, corner: Point, along: int, first: int, last: int, sector: int, texture: str
) -> None:
    """Add a stretch of wall; its texture runs on from the corner."""
    if first != last:
        offset = abs(first - corner[along])
        out.wall(_on(corner, along, first), _on(corner, along, last), sector, texture, offset)


def _on(corner: Point, along: int, value: int) -> Point:
    return (value, corner[1]) if along == 0 else (corner[0], value)


def _add_jambs(out: _Textmap, door: Door, sector: int) -> None:
    x0, y0, x1, y1 = door.box
    if door.eastward:
        out.wall((x0, y1), (x1, y1), sector, palette.DOORWAY_WALL, 0)
        out.wall((x1, y0), (x0, y0), sector, palette.DOORWAY_WALL, 0)
    else:
        out.wall((x0, y0), (x0, y1), sector, palette.DOORWAY_WALL, 0)
        out.wall((x1, y1), (x1, y0), sector, palette.DOORWAY_WALL, 0)


def write_body(
    settings: MazeMapSettings,
    rooms: Sequence[Room],
    doors: Sequence[Door],
    things: Sequence[Thing],
) -> bytes:
    """Return the text map but for its head, which names the player's start (see `write_head`)."""
    out = _Textmap()
    for room in rooms:
        out.sector(room.box, room.floor, room.ceiling, settings.height, room.light)
    openings: dict[int, list[tuple[Door, int]]] = {room.index: [] for room in rooms}
    for door in doors:
        light = (rooms[door.first].light + rooms[door.second].light) // 2
        sector = out.sector(
            door.box, palette.DOORWAY_FLOOR, palette.DOORWAY_CEILING, settings.door_height, light
        )
        _add_jambs(out, door, sector)
        openings[door.first].append((door, sector))
        openings[door.second].append((door, sector))
    for room in rooms:
        _add_room(out, room, room.index, openings[room.index])
    blocks = [_thing(thing.x, thing.y, 0, thing.kind.thing_type) for thing in things]
    blocks += [f"vertex{{x={x};y={y};}}" for x, y in out.vertices]
    blocks += out.lines + out.sides + out.sectors
    return "\n".join(blocks).encode("ascii")


def write_head(spawn: Spawn) -> bytes:
    """Return the first lines of a text map: the dialect and the player's start."""
    return f'namespace="zdoom";\n{_thing(spawn.x, spawn.y, spawn.yaw_deg, _PLAYER)}\n'.encode("ascii")


def _thing(x: int, y: int, angle_deg: int, kind: int) -> str:
    return f"thing{{x={x};y={y};angle={angle_deg};type={kind};{_ALWAYS}}}"
