"""What rooms are made of: textures of the bundled freedoom2.wad, some in other colours, and still decorations.

Chosen out of 131 walls and 173 flats rendered at 128×96 in a test room, for little fine noise and distant colours.
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
    "AQCONC17": "grey",
    "SHAWN2": "grey",
    "METAL1": "dark",
    "A-CONCTE": "grey",
    "REDWALL": "red",
    "WSPLANKR": "red",
    "STWALL": "orange",
    "DOGLDIR": "orange",
    "A-BROWN2": "tan",
    "WOOD10": "wood",
    "PANCASE2": "wood",
    "WSPLANKP": "purple",
    "CRATE1": "tan",
    "CARLLF1": "tan",
    "WSROCKY": "yellow",
    "WSRELIEF": "yellow",
    "DOKGRIR": "green",
    "WSSTONEG": "green",
    "ESPIG1": "olive",
    "WSBRICKB": "blue",
    "WSROCKB": "blue",
}

FLOORS: tuple[str, ...] = (
    "FLAT5_3", "FLAT8", "FLOOR0_1", "AQF067", "FLAT9", "MFLR8_1", "FLOOR5_2", "AQF022", "FLAT5_1", "WSTILEB",
)  # fmt: skip

CEILINGS: tuple[str, ...] = (
    "CEIL3_5", "FLAT23", "CEIL3_1", "CRATOP2", "FLOOR7_2", "WSPLAINB", "WSTILEY", "WSPLAINR",
)  # fmt: skip

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
