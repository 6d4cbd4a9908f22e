"""Film strips: rows of frames with a label over each row and, if wanted, a caption under each frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

LABEL_HEIGHT = 16
MARGIN = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a film strip."""

    label: str
    """What the row shows, written above it."""
    frames_u8: UInt8[np.ndarray, "time height width 3"]
    """Its frames, left to right."""
    captions: tuple[str, ...] = ()
    """A word on each frame, or nothing."""


def film_strip(rows: Sequence[Row], title: str, path: Path, scale: int = 1) -> Path:
    """Write the rows as one PNG at `path` and return it. Frames may differ in number from row to row."""
    from PIL import Image, ImageDraw

    height, width = rows[0].frames_u8.shape[1] * scale, rows[0].frames_u8.shape[2] * scale
    columns = max(len(row.frames_u8) for row in rows)
    row_height = LABEL_HEIGHT + height + MARGIN
    size = (columns * (width + MARGIN), LABEL_HEIGHT + len(rows) * row_height)
    sheet = Image.new("RGB", size, (24, 24, 24))
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 2), title, fill=(255, 255, 255))
    for index, row in enumerate(rows):
        top = LABEL_HEIGHT + index * row_height
        draw.text((4, top + 2), row.label, fill=(255, 210, 90))
        for column, frame_u8 in enumerate(row.frames_u8):
            picture = Image.fromarray(frame_u8).resize((width, height), Image.Resampling.NEAREST)
            left = column * (width + MARGIN)
            sheet.paste(picture, (left, top + LABEL_HEIGHT))
            if column < len(row.captions):
                box = draw.textbbox((left + 3, top + LABEL_HEIGHT + 2), row.captions[column])
                draw.rectangle((box[0] - 2, box[1] - 1, box[2] + 2, box[3] + 1), fill=(0, 0, 0))
                draw.text((left + 3, top + LABEL_HEIGHT + 2), row.captions[column], fill=(255, 255, 255))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    sheet.save(part, format="PNG")
    part.replace(path)
    return path
