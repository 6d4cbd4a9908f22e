"""From the engine's palette numbers to averaged RGB frames."""

from functools import cache
from pathlib import Path

import numpy as np
import vizdoom
from jaxtyping import UInt8, UInt64
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


_LANE_BITS = 16  # of a colour sum in a 64-bit number: red, green, blue from the lowest bits up
_PAIRED_SCALES = (2, 4, 8)  # powers of two: two pixels of one mean lie beside each other, and a shift divides


@cache
def _pair_sums() -> UInt64[np.ndarray, "65536"]:
    """Return, for any two neighbouring pixels read as one number, the sum of their colours, and 1, in lanes.

    The ones add up to half of the divisor of a mean, so that its division rounds to nearest.
    """
    lanes = np.arange(3, dtype=np.uint64) * np.uint64(_LANE_BITS)
    colours = (screen_palette().astype(np.uint64) << lanes).sum(axis=1, dtype=np.uint64)
    ones = (np.ones(3, np.uint64) << lanes).sum(dtype=np.uint64)
    return (colours[:, None] + colours + ones).ravel()


def average_frame(
    screen: UInt8[np.ndarray, "screen_height screen_width"], scale: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the RGB frame whose pixels are the mean of scale × scale pixels, rounded to nearest.

    `screen` holds palette numbers, C-contiguous; its sides are multiples of `scale`. Almost all of it runs without
    Python's lock, so that another thread can step an engine meanwhile.
    """
    if scale in _PAIRED_SCALES:
        return _average_pairs(screen, scale)
    height, width = screen.shape
    image = Image.frombuffer("P", (width, height), screen, "raw", "P", 0, 1)
    image.putpalette(_palette_bytes())
    return np.array(image.convert("RGB").reduce(scale))


def _average_pairs(
    screen: UInt8[np.ndarray, "screen_height screen_width"], scale: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Average with one look into a table for two pixels: 0.12 ms for 512 × 384, of Pillow's 0.20."""
    height, width = screen.shape[0] // scale, screen.shape[1] // scale
    pairs = screen.view(np.uint16).astype(np.intp)  # `take` would convert other types itself, more slowly
    sums = _pair_sums().take(pairs, mode="clip")  # quicker than with a check; no number is beyond the table
    rows = sums.reshape(height, scale, width * scale // 2)
    columns = _fold([rows[:, i] for i in range(scale)]).reshape(height, width, scale // 2)
    means = _fold([columns[..., i] for i in range(scale // 2)])
    means >>= np.uint64(2 * (scale.bit_length() - 1))
    # Each lane's lowest byte is a mean now; above it may lie bits of the next lane.
    lanes = means.astype("<u8", copy=False).view(np.uint8).reshape(height, width, 8)
    frame = np.empty((height, width, 3), np.uint8)
    for channel in range(3):  # one copy of all three takes three times as long
        frame[..., channel] = lanes[..., channel * _LANE_BITS // 8]
    return frame


def _fold(parts: list[UInt64[np.ndarray, "*shape"]]) -> UInt64[np.ndarray, "*shape"]:
    """Add up the parts into a new array, which beats numpy's own sums along short axes."""
    total = parts[0].copy() if len(parts) == 1 else parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total
