"""What rooms are made of: textures of the bundled freedoom2.wad, and things that stand still."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Decoration:
    """A thing that stands still and never animates: its ZDoom editor number and its radius in map units."""

    thing_type: int
    radius: float


# Wall texture -> family of looks; rooms side by side never share a family.
WALLS: dict[str, str] = {
    "GRAY1": "grey", "SILVER1": "grey", "A-CONCTE": "pale", "AQCONC17": "pale", "METAL1": "dark",
    "SKIN2": "red", "REDWALL": "red", "BIGWALL": "orange", "MURAL1": "orange", "TANROCK2": "tan",
    "SPACEW4": "tan", "CARLLF1": "sand", "CRATE1": "sand", "WOOD10": "wood", "BRICK7": "brown",
    "MARBLE1": "green", "ESPIG1": "olive", "ZIMMER7": "olive", "A-MOULD": "green", "A-TILE": "jade",
}  # fmt: skip

FLOORS: tuple[str, ...] = (
    "FLAT5_3", "FLAT18", "FLAT9", "AQF067", "FLAT8", "FLOOR0_1", "SLIME16", "FLOOR5_2", "GRASS2", "FLAT5_1",
)  # fmt: skip

CEILINGS: tuple[str, ...] = (
    "CEIL3_5",
    "FLOOR0_6",
    "FLAT23",
    "CEIL3_2",
    "CRATOP2",
    "COMP01",
    "CEIL3_1",
    "FLAT19",
)

LIGHTS: tuple[int, ...] = (208, 224, 240, 255)

DOORWAY_WALL = "GRAY1"
DOORWAY_FLOOR = "FLAT19"
DOORWAY_CEILING = "FLAT19"

DECORATIONS: tuple[Decoration, ...] = (
    Decoration(thing_type=48, radius=16.0),
    Decoration(thing_type=2028, radius=16.0),
    Decoration(thing_type=30, radius=16.0),
    Decoration(thing_type=31, radius=16.0),
    Decoration(thing_type=32, radius=16.0),
    Decoration(thing_type=33, radius=16.0),
    Decoration(thing_type=43, radius=16.0),
    Decoration(thing_type=47, radius=16.0),
    Decoration(thing_type=54, radius=32.0),
    Decoration(thing_type=35, radius=16.0),
)
