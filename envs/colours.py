"""From the engine's palette numbers to averaged RGB frames."""

from functools import cache
from pathlib import Path

import numpy as np
import vizdoom
from jaxtyping import UInt8
from PIL import Image

from envs.wad import read_lump

GAME_WAD = Path(vizdoom.__file__).with_name("freedoom2.wad")
GAMMA = 0.8  # the game's own colours are dark: output = input ** GAMMA, on a scale of 0 to 1
# The game's blues and magentas are glaring: (first entry, last entry, first RGB, last RGB) of softer ramps.
SOFTENED = (
    (192, 207, (214, 226, 246), (34, 52, 112)),
    (240, 247, (30, 46, 100), (2, 4, 8)),
    (250, 254, (206, 172, 220), (92, 56, 118)),
)


@cache
def screen_palette() -> UInt8[np.ndarray, "256 3"]:
    """Return the RGB colours of the game's palette, brightened by GAMMA, some ramps SOFTENED."""
    raw = np.frombuffer(read_lump(GAME_WAD.read_bytes(), "PLAYPAL")[:768], np.uint8).reshape(256, 3)
    palette = np.rint(255.0 * (raw / 255.0) ** GAMMA).astype(np.uint8)
    for first, last, start, end in SOFTENED:
        palette[first : last + 1] = np.rint(np.linspace(start, end, last - first + 1)).astype(np.uint8)
    return palette


@cache
def _palette_bytes() -> bytes:
    return screen_palette().tobytes()


def average_frame(
    screen: UInt8[np.ndarray, "screen_height screen_width"], scale: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the RGB frame whose pixels are the mean of scale × scale pixels, rounded to nearest.

    `screen` holds palette numbers, C-contiguous; its sides are multiples of `scale`. Almost all of it runs without
    Python's lock, so that another thread can step an engine meanwhile.
    """
    height, width = screen.shape
    image = Image.frombuffer("P", (width, height), screen, "raw", "P", 0, 1)
    image.putpalette(_palette_bytes())
    return np.array(image.convert("RGB").reduce(scale))
