"""Maps of rooms and doors, made from a seed, and their text form for the engine (UDMF, namespace ZDoom)."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from envs.colours import screen_palette
from envs.layout import draw_doors, draw_rooms, draw_things, free_place
from envs.palette import textures_lump
from envs.room import Door, MazeMapSettings, Room, Spawn, Thing
from envs.twins import find_twins, furnish_alike, look_alike, open_alike
from envs.udmf import write_body, write_head
from envs.wad import map_lumps, pack_wad

__all__ = ["MazeMap", "MazeMapSettings", "write_wad"]

TRIES = 100
"""Times that doors are drawn anew until two rooms have them on the same sides."""


@dataclass(frozen=True, kw_only=True)
class MazeMap:
    """A map as plain data; `generate` makes one from a seed, `textmap` writes it for the engine."""

    seed: int
    settings: MazeMapSettings
    rows: int
    columns: int
    rooms: tuple[Room, ...]
    doors: tuple[Door, ...]
    things: tuple[Thing, ...]
    twins: tuple[int, int] | None = None
    """two rooms that look the same, where the settings ask for them"""

    @classmethod
    def generate(cls, seed: int, settings: MazeMapSettings | None = None) -> "MazeMap":
        """Make the map of this seed (an integer >= 0): same seed and settings, same map on every machine.

        ValueError for a negative seed, or where no two rooms of maps of this size can be twins.
        """
        if seed < 0:
            raise ValueError(f"map seed {seed} is negative; give an integer >= 0")
        settings = settings or MazeMapSettings()
        rng = np.random.Generator(np.random.PCG64(seed))
        rows = int(rng.integers(settings.rows[0], settings.rows[1] + 1))
        columns = int(rng.integers(settings.columns[0], settings.columns[1] + 1))
        rooms = draw_rooms(rng, settings, rows, columns)
        doors, twins = draw_doors(rng, settings, rooms, columns), None
        for _ in range(TRIES if settings.twins else 0):
            if (twins := find_twins(rooms, doors, rng)) is not None:
                rooms, doors = look_alike(rooms, twins), open_alike(doors, rooms, twins)
                break
            doors = draw_doors(rng, settings, rooms, columns)
        if settings.twins and twins is None:
            raise ValueError(
                f"map seed {seed}: no two of {rows} × {columns} rooms have doors on the same sides"
            )
        things = draw_things(rng, settings, rooms, doors)
        if twins is not None:
            things = furnish_alike(things, rooms, twins)
        return cls(
            seed=seed,
            settings=settings,
            rows=rows,
            columns=columns,
            rooms=rooms,
            doors=doors,
            things=things,
            twins=twins,
        )

    @cached_property
    def pitch(self) -> int:
        """Distance from a room to the next, in map units."""
        return self.settings.cell * self.settings.room_cells + self.settings.wall

    def room_at(self, x: float | int, y: float | int) -> int:
        """Return the index of the room around (x, y); an opening is split in its middle between its rooms."""
        half = self.settings.wall / 2
        column = min(max(int((x + half) // self.pitch), 0), self.columns - 1)
        row = min(max(int((y + half) // self.pitch), 0), self.rows - 1)
        return row * self.columns + column

    def is_inside(self, x: float | int, y: float | int, margin: float) -> bool:
        """Say whether (x, y) is in a room or an opening, at least `margin` from the ends of its box."""
        boxes = [self.rooms[self.room_at(x, y)].box, *(door.box for door in self.doors)]
        return any(
            x0 + margin <= x <= x1 - margin and y0 + margin <= y <= y1 - margin for x0, y0, x1, y1 in boxes
        )

    @cached_property
    def neighbours(self) -> dict[int, dict[int, Door]]:
        """For every room, the rooms that one door leads to, with that door."""
        table: dict[int, dict[int, Door]] = {room.index: {} for room in self.rooms}
        for door in self.doors:
            table[door.first][door.second] = door
            table[door.second][door.first] = door
        return table

    @cached_property
    def things_of(self) -> tuple[list[Thing], ...]:
        """For every room, its decorations."""
        table: tuple[list[Thing], ...] = tuple([] for _ in self.rooms)
        for thing in self.things:
            table[thing.room].append(thing)
        return table

    def spawn(self, rng: np.random.Generator) -> Spawn:
        """Draw a start: a room, a place in it clear of walls and decorations, a yaw in steps of 5°."""
        room = self.rooms[int(rng.integers(len(self.rooms)))]
        x, y = free_place(rng, room, self.things_of[room.index])
        return Spawn(x=x, y=y, yaw_deg=5 * int(rng.integers(72)))

    def textmap(self, spawn: Spawn | None = None) -> bytes:
        """Return the map as UDMF text; without a spawn the player starts in the first room's middle."""
        if spawn is None:
            x, y = self.rooms[0].centre
            spawn = Spawn(x=int(x), y=int(y), yaw_deg=0)
        return write_head(spawn) + self._body

    @cached_property
    def _body(self) -> bytes:
        return write_body(self.settings, self.rooms, self.doors, self.things)

    @cached_property
    def map_hash(self) -> str:
        """sha256 of `textmap()`, recolours and palette, in hexadecimal: equal hashes mean the same looks."""
        return hashlib.sha256(self.textmap() + textures_lump() + screen_palette().tobytes()).hexdigest()


def write_wad(path: Path, maps: Sequence[MazeMap]) -> None:
    """Write 1 to 99 maps into one PWAD as MAP01, MAP02, …, through a temporary file beside it."""
    lumps = [lump for number, item in enumerate(maps, start=1) for lump in map_lumps(number, item.textmap())]
    lumps.append(("TEXTURES", textures_lump()))
    part = path.with_name(path.name + ".part")
    part.write_bytes(pack_wad(lumps))
    part.replace(path)
