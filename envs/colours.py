"""From the engine's palette numbers to averaged RGB frames, by tables."""

from functools import cache
from pathlib import Path

import numpy as np
import vizdoom
from jaxtyping import UInt8, UInt32

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
def _pair_table() -> UInt32[np.ndarray, "65536"]:
    """Return, for two neighbouring palette numbers, both colours' sum plus 1: red in bits 0-9, green 10-19, blue
    20-29. Two entries added are the sum of 2 × 2 pixels plus 2, so `>> 2` rounds their mean to nearest."""
    colour = screen_palette().astype(np.uint32)
    pair = (colour[:, None] + colour[None, :] + 1).reshape(65536, 3)
    return pair[:, 0] | pair[:, 1] << np.uint32(10) | pair[:, 2] << np.uint32(20)


def average_frame(
    screen: UInt8[np.ndarray, "screen_height screen_width"], scale: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the RGB frame whose pixels are the mean of scale × scale pixels, rounded to nearest.

    `screen` holds palette numbers, C-contiguous; its sides are multiples of `scale`.
    """
    if scale == 2:
        return _average_pairs(screen)
    colour = screen_palette()[screen]
    height, width = screen.shape[0] // scale, screen.shape[1] // scale
    blocks = colour.reshape(height, scale, width, scale, 3).sum(axis=(1, 3), dtype=np.uint32)
    return ((blocks + scale * scale // 2) // (scale * scale)).astype(np.uint8)


def _average_pairs(
    screen: UInt8[np.ndarray, "screen_height screen_width"],
) -> UInt8[np.ndarray, "height width 3"]:
    pairs = _pair_table().take(screen.view(np.uint16), mode="wrap")
    sums = pairs[::2] + pairs[1::2]
    low = sums.view(np.uint8)[:, ::4]
    frame = np.empty((*sums.shape, 3), np.uint8)
    for channel, shift in enumerate((2, 10, 10)):
        sums >>= np.uint32(shift)
        frame[..., channel] = low
    return frame
