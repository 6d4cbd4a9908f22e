"""The engine's archive format: a header, named lumps, a directory."""

import struct
from collections.abc import Sequence
from pathlib import Path

_HEADER = struct.Struct("<4sii")
_ENTRY = struct.Struct("<ii8s")


def pack_wad(lumps: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a PWAD with these (name, content) lumps in this order.

    Names have at most eight ASCII characters; a longer one raises ValueError.
    """
    body, directory, offset = [], [], _HEADER.size
    for name, content in lumps:
        if not 1 <= len(name) <= 8:
            raise ValueError(f"lump name {name!r} is not 1 to 8 characters long")
        body.append(content)
        directory.append(_ENTRY.pack(offset, len(content), name.encode("ascii")))
        offset += len(content)
    return b"".join([_HEADER.pack(b"PWAD", len(lumps), offset), *body, *directory])


def unpack_wad(content: bytes) -> list[tuple[str, bytes]]:
    """Return the (name, content) lumps of a WAD; content that is no WAD raises ValueError."""
    if len(content) < _HEADER.size or content[:4] not in (b"PWAD", b"IWAD"):
        raise ValueError(f"content starting with {content[:4]!r} is not a WAD; give a PWAD or an IWAD")
    _, count, directory = _HEADER.unpack_from(content)
    if directory + count * _ENTRY.size > len(content):
        raise ValueError(f"a WAD of {len(content)} bytes is cut short; write it again")
    lumps = []
    for number in range(count):
        offset, size, name = _ENTRY.unpack_from(content, directory + number * _ENTRY.size)
        lumps.append((name.rstrip(b"\0").decode("ascii"), content[offset : offset + size]))
    return lumps


def read_lump(content: bytes, name: str) -> bytes:
    """Return the last lump of this name, the one that counts; ValueError if there is none."""
    found = [lump for lump in unpack_wad(content) if lump[0] == name]
    if not found:
        raise ValueError(f"the WAD has no lump {name!r}; install the vizdoom package again")
    return found[-1][1]


def map_lumps(number: int, textmap: bytes) -> list[tuple[str, bytes]]:
    """Return the lumps of map `number` (1 to 99) in UDMF: marker, text map, end marker."""
    if not 1 <= number <= 99:
        raise ValueError(f"map number {number} is not within 1..99")
    return [(f"MAP{number:02d}", b""), ("TEXTMAP", textmap), ("ENDMAP", b"")]


class MapSlots:
    """A PWAD file on disk whose text maps are overwritten in place while the engine has it open.

    The engine reads the directory once and a map's text at every map load. So a file with a few slots of
    fixed capacity serves any number of maps without starting the engine again. Slots are used in turn, because
    the engine's buffered file may still hold the text that it read last.
    """

    def __init__(
        self, path: Path, others: Sequence[tuple[str, bytes]] = (), slots: int = 4, capacity: int = 1 << 17
    ):
        """Write the file: empty slots, then other lumps. The first slot must be filled before the engine starts."""
        self.path, self.slots, self.capacity = path, slots, capacity
        self._next = 0
        lumps = [lump for slot in range(slots) for lump in map_lumps(slot + 1, b" " * capacity)]
        path.write_bytes(pack_wad([*lumps, *others]))

    def put(self, textmap: bytes) -> str:
        """Write a text map into the next slot, return its map name; ValueError if over capacity."""
        if len(textmap) > self.capacity:
            raise ValueError(
                f"a text map of {len(textmap)} bytes is over {self.capacity}; ask for fewer rooms"
            )
        slot = self._next
        self._next = (slot + 1) % self.slots
        with self.path.open("r+b") as file:
            file.seek(_HEADER.size + slot * self.capacity)
            file.write(textmap.ljust(self.capacity))
        return f"map{slot + 1:02d}"
