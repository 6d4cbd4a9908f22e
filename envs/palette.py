"""What rooms are made of: textures of the bundled freedoom2.wad, some in other colours, and still decorations.

Chosen out of 121 walls and 183 flats rendered at 128×96 in a test room, for little fine noise and distant colours.
Noise is the root mean square that is lost when the surface is averaged over 4×4 pixels and enlarged again, on a
scale of 0 to 255; L, a, b is the mean colour in CIELAB. Refused: noise above 14 (grids, metal panels, rubble),
glowing lamps, pictures that name a place, and whatever comes out near black.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Decoration:
    """A thing that stands still and never animates: its ZDoom editor number and its radius in map units."""

    thing_type: int
    radius: float


@dataclass(frozen=True, kw_only=True)
class Recolour:
    """A bundled texture under another name in other colours: `translation` is ZDoom's range map of its palette."""

    name: str
    base: str
    width: int
    height: int
    translation: str
    is_flat: bool = False


RECOLOURS: tuple[Recolour, ...] = (
    Recolour(name="WSBRICKB", base="STWALL", width=128, height=128, translation="59:75=196:207"),
    Recolour(name="WSROCKB", base="A-CONCTE", width=128, height=128, translation="84:105=193:202"),
    Recolour(name="WSSTONEG", base="STONE4", width=64, height=128, translation="80:111=112:126"),
    Recolour(name="WSPLANKR", base="GRAY1", width=64, height=128, translation="80:111=16:44"),
    Recolour(
        name="WSRELIEF", base="BIGWALL", width=128, height=128, translation="0:255=%[0,0,0]:[1.6,1.3,0.2]"
    ),
    Recolour(
        name="WSROCKY", base="A-CONCTE", width=128, height=128, translation="80:111=[255,255,120]:[80,70,0]"
    ),
    Recolour(name="WSPLANKP", base="GRAY1", width=64, height=128, translation="92:104=250:254"),
    Recolour(name="WSTILEB", base="FLAT18", width=64, height=64, translation="95:106=198:206", is_flat=True),
    Recolour(name="WSPLAINB", base="FLAT19", width=64, height=64, translation="96:104=195:201", is_flat=True),
    Recolour(
        name="WSTILEY",
        base="FLAT18",
        width=64,
        height=64,
        translation="80:111=[255,255,120]:[80,70,0]",
        is_flat=True,
    ),
    Recolour(name="WSPLAINR", base="FLAT19", width=64, height=64, translation="96:104=22:34", is_flat=True),
)

# Wall texture -> family of looks; rooms side by side never share a family.
WALLS: dict[str, str] = {
    "AQCONC17": "grey",  # noise 4.0, L 64 a 0 b 0
    "SHAWN2": "grey",  # noise 6.8, L 56 a 0 b 0
    "METAL1": "dark",  # noise 11.5, L 29 a 0 b 0
    "A-CONCTE": "grey",  # noise 10.2, L 73 a 0 b 0
    "REDWALL": "red",  # noise 8.8, L 29 a 42 b 26
    "WSPLANKR": "red",  # noise 7.5, L 45 a 40 b 20
    "STWALL": "orange",  # noise 10.1, L 62 a 17 b 32
    "DOGLDIR": "orange",  # noise 6.2, L 55 a 14 b 30
    "A-BROWN2": "tan",  # noise 7.7, L 45 a 10 b 26
    "WOOD10": "wood",  # noise 12.8, L 28 a 5 b 15
    "PANCASE2": "wood",  # noise 4.5, L 36 a 5 b 23
    "WSPLANKP": "purple",  # noise 11.9, L 61 a 22 b -21
    "CRATE1": "tan",  # noise 8.6, L 48 a 4 b 18
    "CARLLF1": "tan",  # noise 9.8, L 60 a 4 b 19
    "WSROCKY": "yellow",  # noise 9.9, L 79 a -4 b 57
    "WSRELIEF": "yellow",  # noise 11.4, L 71 a 1 b 57
    "DOKGRIR": "green",  # noise 6.2, L 54 a -37 b 35
    "WSSTONEG": "green",  # noise 8.2, L 50 a -33 b 32
    "ESPIG1": "olive",  # noise 13.2, L 44 a -7 b 15
    "WSBRICKB": "blue",  # noise 12.8, L 58 a 4 b -21
    "WSROCKB": "blue",  # noise 8.3, L 75 a 1 b -16
}

FLOORS: tuple[str, ...] = (
    "FLAT5_3",  # noise 8.5, L 30 a 42 b 26
    "FLAT8",  # noise 9.5, L 44 a 10 b 26
    "FLOOR0_1",  # noise 4.3, L 49 a 5 b 14
    "AQF067",  # noise 4.0, L 63 a 0 b 0
    "FLAT9",  # noise 8.7, L 48 a 0 b 0
    "MFLR8_1",  # noise 9.4, L 31 a 0 b 0
    "FLOOR5_2",  # noise 8.5, L 42 a 3 b 20
    "AQF022",  # noise 6.8, L 34 a -24 b 26
    "FLAT5_1",  # noise 12.4, L 29 a 4 b 16
    "WSTILEB",  # noise 6.7, L 50 a 5 b -26
)

CEILINGS: tuple[str, ...] = (
    "CEIL3_5",  # noise 4.5, L 32 a 0 b 0
    "FLAT23",  # noise 8.0, L 58 a 0 b 0
    "CEIL3_1",  # noise 6.0, L 38 a 6 b 24
    "CRATOP2",  # noise 3.2, L 48 a 4 b 19
    "FLOOR7_2",  # noise 7.5, L 32 a -9 b 15
    "WSPLAINB",  # noise 3.8, L 64 a 3 b -20
    "WSTILEY",  # noise 7.6, L 56 a 10 b 41
    "WSPLAINR",  # noise 4.5, L 52 a 37 b 17
)

LIGHTS: tuple[int, ...] = (224, 240, 255)

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


def textures_lump() -> bytes:
    """Return the text of the TEXTURES lump that defines RECOLOURS."""
    blocks = [
        f'{"Flat" if item.is_flat else "WallTexture"} "{item.name}", {item.width}, {item.height} '
        f'{{ Patch "{item.base}", 0, 0 {{ Translation "{item.translation}" }} }}'
        for item in RECOLOURS
    ]
    return "\n".join(blocks).encode("ascii")
