"""A picture that the demo films are painted on: views, small views, words."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

MARGIN = 16
"""pixels of a line of words"""
BACKGROUND, WORDS, FAINT = (24, 24, 28), (230, 230, 230), (150, 150, 150)


class Panel:
    """A dark picture; places on it are (x, y) in pixels from the upper left."""

    def __init__(self, width: int, height: int) -> None:
        self.picture = Image.new("RGB", (width, height), BACKGROUND)
        self.draw = ImageDraw.Draw(self.picture)

    def view(
        self, frame_u8: UInt8[np.ndarray, "height width 3"], place: tuple[int, int], scale: int, label: str
    ) -> None:
        """A line of words and below it the frame, every pixel `scale` times as large."""
        height, width = frame_u8.shape[:2]
        x, y = place
        shown = Image.fromarray(frame_u8).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        self.picture.paste(shown, (x, y + MARGIN))
        self.words((x + 6, y + 2), label, WORDS)

    def small(
        self, frames_u8: Sequence[UInt8[np.ndarray, "height width 3"]], place: tuple[int, int],
        size: tuple[int, int], columns: int, labels: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Frames of one size in rows, each with its label, if it has one, on its lower edge."""
        for i, frame_u8 in enumerate(frames_u8):
            corner = (place[0] + i % columns * size[0], place[1] + i // columns * size[1])
            self.picture.paste(Image.fromarray(frame_u8).resize(size), corner)
        for i, label in enumerate(labels):
            x, y = place[0] + i % columns * size[0], place[1] + (i // columns + 1) * size[1] - 14
            self.draw.rectangle((x, y, x + 6 * len(label) + 7, y + 13), fill=BACKGROUND)
            self.words((x + 4, y + 1), label, WORDS)

    def words(self, place: tuple[int, int], text: str, colour: tuple[int, int, int] = FAINT) -> None:
        """One line."""
        self.draw.text(place, text, fill=colour)

    def pixels(self) -> UInt8[np.ndarray, "rows cols 3"]:
        """What has been painted."""
        return np.asarray(self.picture)
