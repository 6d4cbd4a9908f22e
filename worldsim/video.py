"""Frames to files: MP4 by PyAV, GIF and film strips by Pillow. Every file is written aside and then renamed."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from worldsim.files import atomic_path, naming

FILM_GAP = 2
FILM_LABEL_HEIGHT = 14
SUFFIXES = (".mp4", ".gif")


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """frames_per_s in frames of the video a second; scale repeats each pixel so many times along both axes."""

    frames_per_s: float = 8.75
    scale: int = 4
    crf: int = 16


def video_suffix(path: Path) -> str:
    """Lower-case suffix of a video this module can write; ValueError when it is neither .mp4 nor .gif."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{str(path)!r} is no video name; end it with .mp4 or .gif")
    return suffix


def enlarge(frame_u8: UInt8[np.ndarray, "height width 3"], scale: int) -> UInt8[np.ndarray, "rows cols 3"]:
    """The frame with every pixel repeated `scale` times along both axes: sharp edges, no smoothing."""
    return np.ascontiguousarray(frame_u8.repeat(scale, axis=0).repeat(scale, axis=1))


class VideoWriter:
    """Writes a video frame by frame; the file appears at `path` only when it is complete.

    Use as a context manager. An exception inside the block, or no frame at all, leaves no file behind. OSError at
    once, before anything is computed, where no file can be written.
    """

    def __init__(self, path: Path, settings: VideoSettings | None = None) -> None:
        self.path = Path(path)
        self.settings = settings or VideoSettings()
        self.frame_count = 0
        self._suffix = video_suffix(self.path)
        self._part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part{self._suffix}")
        self._container: Any = None
        self._stream: Any = None
        self._frames: list[np.ndarray] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder; name a video in it")
        self._part.touch()

    def append(self, frame_u8: UInt8[np.ndarray, "height width 3"]) -> None:
        """Adds one frame; all frames of a video have one size, which H.264 needs even after scaling."""
        if self._suffix == ".gif":
            self._frames.append(frame_u8)
        else:
            self._encode(enlarge(frame_u8, self.settings.scale))
        self.frame_count += 1

    def _encode(self, frame_u8: UInt8[np.ndarray, "height width 3"]) -> None:
        import av

        height, width = frame_u8.shape[:2]
        if self._stream is None:
            if height % 2 or width % 2:
                raise ValueError(
                    f"H.264 needs even sides, not {width}x{height}; choose an even scale or a .gif"
                )
            self._container = av.open(str(self._part), "w")
            rate = Fraction(self.settings.frames_per_s).limit_denominator(1000)
            self._stream = self._container.add_stream("libx264", rate=rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": str(self.settings.crf), "preset": "fast"}
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame_u8, format="rgb24")))

    def close(self) -> None:
        """Finishes the file and moves it to `path`; ValueError when no frame was given."""
        if not self.frame_count:
            raise ValueError(f"no frame was written to {str(self.path)!r}; a video needs at least one")
        if self._suffix == ".gif":
            self._write_gif()
        else:
            self._container.mux(self._stream.encode())
            self._container.close()
        os.replace(self._part, self.path)

    def _write_gif(self) -> None:
        """Frames that equal the one before become a longer showing of it; the length in time is kept."""
        # A GIF counts hundredths of a second: round the times, not the spans, or the speed would be off.
        times_ms = 10 * np.rint(np.arange(self.frame_count + 1) * 100 / self.settings.frames_per_s).astype(
            int
        )
        spans_ms = np.diff(times_ms).tolist()
        images = (Image.fromarray(enlarge(frame_u8, self.settings.scale)) for frame_u8 in self._frames)
        with naming(self.path):
            next(images).save(
                self._part, format="GIF", save_all=True, append_images=images, duration=spans_ms, loop=0
            )

    def discard(self) -> None:
        """Gives up what is not finished: nothing after `close`, the partial file before it."""
        try:
            if self._container is not None:
                self._container.close()
        finally:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.discard()


def write_video(
    path: Path,
    frames_u8: Iterable[UInt8[np.ndarray, "height width 3"]],
    settings: VideoSettings | None = None,
) -> None:
    """Writes all frames to `path` (.mp4 or .gif)."""
    with VideoWriter(path, settings) as writer:
        for frame_u8 in frames_u8:
            writer.append(frame_u8)


def write_png(path: Path, image: Image.Image) -> None:
    """Writes a picture to `path` through a temporary file in the same folder, which it creates when missing."""
    with atomic_path(Path(path)) as part:
        image.save(part, format="PNG")


def film_strip(
    rows: Sequence[tuple[str, Sequence[UInt8[np.ndarray, "height width 3"]]]], scale: int = 1
) -> Image.Image:
    """One picture of several rows of frames, each under its label, time running to the right.

    Rows may differ in length; all frames have one size. ValueError when there is no frame at all.
    """
    sizes = {frame.shape for _, frames in rows for frame in frames}
    if len(sizes) != 1:
        raise ValueError(
            f"a film strip needs frames of one size, not {sorted(sizes)}; give at least one frame"
        )
    height, width, _ = (side * scale for side in sizes.pop())
    columns = max(len(frames) for _, frames in rows)
    row_height = FILM_LABEL_HEIGHT + height + FILM_GAP
    strip = Image.new(
        "RGB", (columns * (width + FILM_GAP) - FILM_GAP, len(rows) * row_height - FILM_GAP), (24, 24, 28)
    )
    draw = ImageDraw.Draw(strip)
    for row, (label, frames) in enumerate(rows):
        top = row * row_height
        draw.text((2, top + 1), label, fill=(225, 225, 225))
        for column, frame_u8 in enumerate(frames):
            picture = Image.fromarray(enlarge(frame_u8, scale))
            strip.paste(picture, (column * (width + FILM_GAP), top + FILM_LABEL_HEIGHT))
    return strip
