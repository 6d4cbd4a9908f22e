"""Small pictures of frames that may be recalled."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

THUMBNAIL_STRIDE = 2
CAPACITY = 4096


def shrink(frame_u8: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "rows cols 3"]:
    """The frame at half its size: the mean of each 2x2 block, odd edges dropped."""
    rows, cols = (side // THUMBNAIL_STRIDE for side in frame_u8.shape[:2])
    blocks = frame_u8[: rows * THUMBNAIL_STRIDE, : cols * THUMBNAIL_STRIDE].reshape(
        rows, THUMBNAIL_STRIDE, cols, THUMBNAIL_STRIDE, 3
    )
    return blocks.mean(axis=(1, 3)).astype(np.uint8)


class Thumbnails:
    """Thumbnails by frame number: kept when a frame is shown, so most recalls cost no decoding.

    The oldest used are dropped beyond `CAPACITY`; `fetch` decodes those again, a few at a time.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._thumbnails: OrderedDict[int, np.ndarray] = OrderedDict()

    def clear(self) -> None:
        """Forgets all: another world begins."""
        self._thumbnails.clear()

    def keep(self, frame: int, frame_u8: UInt8[np.ndarray, "height width 3"]) -> None:
        """Remembers a frame that was shown."""
        self._thumbnails[frame] = shrink(frame_u8)
        self._thumbnails.move_to_end(frame)
        if len(self._thumbnails) > self._capacity:
            self._thumbnails.popitem(last=False)

    def fetch(
        self, frames: tuple[int, ...], decode: Callable[[int], np.ndarray], most: int
    ) -> dict[int, np.ndarray]:
        """Thumbnails of those frames as far as known, after decoding at most `most` that are not."""
        for frame in [frame for frame in frames if frame not in self._thumbnails][:most]:
            self.keep(frame, decode(frame))
        return {frame: self._thumbnails[frame] for frame in frames if frame in self._thumbnails}
