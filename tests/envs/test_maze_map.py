"""Maps as data and as bytes for the engine."""

import struct
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest

from envs import palette
from envs.colours import GAME_WAD
from envs.maze_map import MazeMap, MazeMapSettings, write_wad
from envs.wad import MapSlots, map_lumps, pack_wad, unpack_wad

SEEDS = range(40)


def test_every_room_is_reached_and_doors_join_neighbours() -> None:
    """A map in two parts would shut the player out of rooms; a door off its walls would be a hole into nothing."""
    for seed in SEEDS:
        maze_map = MazeMap.generate(seed)
        seen, queue = {0}, deque([0])
        while queue:
            for room in maze_map.neighbours[queue.popleft()]:
                if room not in seen:
                    seen.add(room)
                    queue.append(room)
        assert seen == set(range(len(maze_map.rooms)))
        for door in maze_map.doors:
            first, second = maze_map.rooms[door.first], maze_map.rooms[door.second]
            x0, y0, x1, y1 = door.box
            axis = 0 if door.eastward else 1
            assert door.box[axis] == first.box[axis + 2]
            assert door.box[axis + 2] == second.box[axis]
            low, high = (y0, y1) if door.eastward else (x0, x1)
            assert high - low == 128
            assert first.box[1 - axis] < low < high < first.box[3 - axis]


def test_grid_sizes_and_extra_doors_follow_the_settings() -> None:
    """Sizes that never vary, or doors that make a tree only, would leave no loops to walk."""
    sizes = Counter()
    for seed in SEEDS:
        maze_map = MazeMap.generate(seed)
        rows, columns = maze_map.rows, maze_map.columns
        sizes[rows, columns] += 1
        walls = rows * (columns - 1) + columns * (rows - 1)
        tree = rows * columns - 1
        assert len(maze_map.doors) == tree + round(0.35 * (walls - tree))
    assert set(sizes) == {(rows, columns) for rows in (3, 4) for columns in (3, 4, 5)}


def test_rooms_side_by_side_differ() -> None:
    """Two alike rooms next to each other could not be told apart by a memory that works."""
    for seed in SEEDS:
        maze_map = MazeMap.generate(seed)
        for room in maze_map.rooms:
            for other in maze_map.rooms[: room.index]:
                if abs(room.row - other.row) + abs(room.column - other.column) == 1:
                    assert palette.WALLS[room.wall] != palette.WALLS[other.wall]
                    assert room.floor != other.floor
                    assert room.ceiling != other.ceiling
        assert len({room.wall for room in maze_map.rooms}) == len(maze_map.rooms)


def test_decorations_leave_doors_and_walls_free() -> None:
    """A tree before a door would shut it; one in a wall would be cut."""
    for seed in SEEDS:
        maze_map = MazeMap.generate(seed)
        counts = Counter(thing.room for thing in maze_map.things)
        assert set(counts.values()) <= {1, 2}
        assert len(counts) == len(maze_map.rooms)
        for thing in maze_map.things:
            x0, y0, x1, y1 = maze_map.rooms[thing.room].box
            assert min(thing.x - x0, x1 - thing.x, thing.y - y0, y1 - thing.y) >= thing.kind.radius + 8
            for door in maze_map.neighbours[thing.room].values():
                assert np.hypot(thing.x - door.centre[0], thing.y - door.centre[1]) > 64 + thing.kind.radius


def test_same_seed_same_hash_other_seed_other_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is what replay trusts: it must change with the map and only with it."""
    hashes = [MazeMap.generate(seed).map_hash for seed in SEEDS]
    assert hashes == [MazeMap.generate(seed).map_hash for seed in SEEDS]
    assert len(set(hashes)) == len(hashes)
    assert MazeMap.generate(0, MazeMapSettings(height=160)).map_hash != hashes[0]
    monkeypatch.setattr(palette, "RECOLOURS", palette.RECOLOURS[1:])
    assert MazeMap.generate(0).map_hash != hashes[0]


def test_textmap_refers_to_what_it_defines() -> None:
    """A side without sector or a line without vertex crashes the engine without a word."""
    text = MazeMap.generate(5).textmap().decode()
    lines = text.split("\n")
    kinds = Counter(line.split("{")[0] for line in lines if "{" in line)
    for line in lines:
        fields = dict(item.split("=") for item in line[line.find("{") + 1 : -1].split(";") if "=" in item)
        if line.startswith("linedef"):
            assert {int(fields["v1"]), int(fields["v2"])} <= set(range(kinds["vertex"]))
            assert int(fields["sidefront"]) < kinds["sidedef"]
        if line.startswith("sidedef"):
            assert int(fields["sector"]) < kinds["sector"]


def test_palette_names_exist_in_the_game() -> None:
    """A texture that the game lacks shows as a checkerboard or a hole."""
    lumps = dict(unpack_wad(GAME_WAD.read_bytes()))
    names = set(lumps)
    for lump in ("TEXTURE1", "TEXTURE2"):
        content = lumps.get(lump, b"\0\0\0\0")
        for number in range(struct.unpack_from("<i", content)[0]):
            (offset,) = struct.unpack_from("<i", content, 4 + 4 * number)
            names.add(content[offset : offset + 8].rstrip(b"\0").decode())
    made = {item.name for item in palette.RECOLOURS}
    used = {*palette.WALLS, *palette.FLOORS, *palette.CEILINGS}
    used |= {palette.DOORWAY_WALL, palette.DOORWAY_FLOOR, palette.DOORWAY_CEILING}
    assert used - made <= names
    assert made <= used
    assert {item.base for item in palette.RECOLOURS} <= names


def test_wad_bytes(tmp_path: Path) -> None:
    """The directory must point at the lumps, by the format's own definition."""
    maps = [MazeMap.generate(seed) for seed in (1, 2)]
    write_wad(tmp_path / "maps.wad", maps)
    content = (tmp_path / "maps.wad").read_bytes()
    magic, count, directory = struct.unpack_from("<4sii", content)
    assert (magic, count, directory + 16 * count) == (b"PWAD", 7, len(content))
    offset, size, name = struct.unpack_from("<ii8s", content, directory + 16 * 4)
    assert name == b"TEXTMAP\0"
    assert content[offset : offset + size] == maps[1].textmap()
    assert [lump[0] for lump in unpack_wad(content)][:4] == ["MAP01", "TEXTMAP", "ENDMAP", "MAP02"]
    assert [path.name for path in tmp_path.iterdir()] == ["maps.wad"]


def test_wad_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    """Long names would be cut, long maps would run into the next slot, both silently."""
    with pytest.raises(ValueError, match="TOOLONGNAME"):
        pack_wad([("TOOLONGNAME", b"")])
    with pytest.raises(ValueError, match="not a WAD"):
        unpack_wad(b"ZIP1" + bytes(20))
    with pytest.raises(ValueError, match="cut short"):
        unpack_wad(pack_wad([("A", b"123")])[:-1])
    with pytest.raises(ValueError, match="map number 100"):
        map_lumps(100, b"")
    slots = MapSlots(tmp_path / "slots.wad", slots=2, capacity=4)
    assert [slots.put(b"a"), slots.put(b"bb"), slots.put(b"ccc")] == ["map01", "map02", "map01"]
    lumps = [content for name, content in unpack_wad(slots.path.read_bytes()) if name == "TEXTMAP"]
    assert lumps == [b"ccc ", b"bb  "]
    with pytest.raises(ValueError, match="5 bytes"):
        slots.put(b"abcde")


@pytest.mark.parametrize(
    "wrong", [{"rows": (0, 3)}, {"columns": (4, 3)}, {"door_cells": 4}, {"extra_doors": 1.5}]
)
def test_settings_out_of_range(wrong: dict) -> None:
    """Settings that make no map must say so before the engine chokes on it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MazeMapSettings(**wrong)
    with pytest.raises(ValueError, match="map seed -1"):
        MazeMap.generate(-1)
