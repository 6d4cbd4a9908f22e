"""Plain data of a map: its settings, rooms, doors, decorations, and where the player starts."""

from dataclasses import dataclass

from envs.palette import Decoration

PLAYER_RADIUS = 16.0  # half the side of the square that the player takes up, in map units


@dataclass(frozen=True, kw_only=True)
class MazeMapSettings:
    """How maps are made. Lengths are in map units; ranges are inclusive.

    rows, columns: how many rooms; cell: side of a cell; room_cells: cells along a room's side; door_cells:
    width of an opening; wall: thickness between rooms; height, door_height: of rooms and openings;
    extra_doors: share of the walls left over by the spanning tree that get a door too; decorations: how many
    stand in a room; twins: two of the rooms look the same.
    """

    rows: tuple[int, int] = (3, 4)
    columns: tuple[int, int] = (3, 5)
    cell: int = 64
    room_cells: int = 4
    door_cells: int = 2
    wall: int = 32
    height: int = 128
    door_height: int = 104
    extra_doors: float = 0.35
    decorations: tuple[int, int] = (1, 2)
    twins: bool = False

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "decorations"):
            low, high = getattr(self, name)
            if not (0 if name == "decorations" else 1) <= low <= high <= 8:
                raise ValueError(f"{name} {(low, high)} is not a range within 1..8; give (low, high)")
        if not 1 <= self.door_cells < self.room_cells:
            raise ValueError(f"door_cells {self.door_cells} is not within 1..{self.room_cells - 1}")
        if not 0.0 <= self.extra_doors <= 1.0:
            raise ValueError(f"extra_doors {self.extra_doors} is not within 0..1")


@dataclass(frozen=True, kw_only=True)
class Room:
    """One room: its place in the grid, its inside as x0, y0, x1, y1 in map units, and its look."""

    index: int
    row: int
    column: int
    box: tuple[int, int, int, int]
    wall: str
    floor: str
    ceiling: str
    light: int

    @property
    def centre(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True, kw_only=True)
class Door:
    """An opening between room `first` and room `second` to its east (or north, if not `eastward`)."""

    first: int
    second: int
    eastward: bool
    box: tuple[int, int, int, int]

    @property
    def centre(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A decoration at x, y in a room."""

    room: int
    x: int
    y: int
    kind: Decoration


@dataclass(frozen=True, kw_only=True)
class Spawn:
    """Where the player starts: x, y in map units, yaw in whole degrees (0 east, 90 north)."""

    x: int
    y: int
    yaw_deg: int
