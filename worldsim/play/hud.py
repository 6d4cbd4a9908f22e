"""The heads-up display: a panel below the view, so that it never covers the world."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pygame
from jaxtyping import UInt8

from worldsim.play.screen import Snapshot

PANEL = (18, 19, 24)
BRIGHT = (236, 236, 240)
DIM = (150, 153, 165)
ACCENT = (255, 196, 92)
PHASES = {
    "loading": "loading…",
    "playing": "playing",
    "waiting": "waiting for a key",
    "paused": "paused (P goes on)",
    "closed": "closing…",
}


@dataclass(frozen=True, kw_only=True)
class HudSettings:
    """text_px: height of the letters; thumbnail_px: height of a recalled frame's picture; both in window pixels."""

    text_px: int = 15
    thumbnail_px: int = 54
    margin_px: int = 8


def surface_of(frame_u8: UInt8[np.ndarray, "height width 3"]) -> pygame.Surface:
    """The frame as a pygame surface of the same size."""
    height, width = frame_u8.shape[:2]
    return pygame.image.frombuffer(np.ascontiguousarray(frame_u8).tobytes(), (width, height), "RGB")


class Hud:
    """Draws what the player may want to know: speed, latency, memory and what was recalled from it."""

    def __init__(self, commands_line: str, settings: HudSettings | None = None) -> None:
        self.settings = settings or HudSettings()
        self._commands_line = commands_line
        self._font = pygame.font.Font(None, round(self.settings.text_px * 1.45))
        self._line_px = self._font.get_linesize() + 3

    def height_px(self, snapshot: Snapshot) -> int:
        """Height of the panel: it depends on whether the world remembers, not on what it just recalled."""
        text_px = text_lines(snapshot) * self._line_px + 2 * self.settings.margin_px
        if not remembers(snapshot):
            return text_px
        return text_px + self.settings.thumbnail_px + self._line_px + self.settings.margin_px

    def paint(self, target: pygame.Surface, panel: pygame.Rect, snapshot: Snapshot) -> None:
        """Fills the panel."""
        target.fill(PANEL, panel)
        target.set_clip(panel)
        left, top = panel.left + self.settings.margin_px, panel.top + self.settings.margin_px
        state = ACCENT if snapshot.phase != "playing" else BRIGHT
        right = self._write(target, PHASES[snapshot.phase], (left, top), state)
        self._write(target, speed_line(snapshot), (max(right + 18, left + 150), top), BRIGHT)
        lines = [(world_line(snapshot), BRIGHT), (keys_line(snapshot), DIM), (self._commands_line, DIM)]
        if snapshot.memory_mode is not None:
            lines.insert(1, (stages_line(snapshot), DIM))
        for text, colour in lines:
            top += self._line_px
            self._write(target, text, (left, top), colour)
        if remembers(snapshot):
            top += self._line_px + self.settings.margin_px
            self._paint_recalled(target, (left, top), panel, snapshot)
        target.set_clip(None)

    def write_centred(self, target: pygame.Surface, text: str, area: pygame.Rect) -> None:
        """A word in the middle of the view: loading, paused."""
        picture = self._font.render(text, True, BRIGHT)
        box = picture.get_rect(center=area.center).inflate(24, 14)
        target.fill(PANEL, box)
        target.blit(picture, picture.get_rect(center=box.center))

    def write_note(self, target: pygame.Surface, text: str, area: pygame.Rect) -> None:
        """A line at the top left of the view, for a moment."""
        picture = self._font.render(text, True, BRIGHT)
        box = picture.get_rect(topleft=(area.left + 6, area.top + 6)).inflate(12, 8)
        target.fill(PANEL, box)
        target.blit(picture, picture.get_rect(center=box.center))

    def _write(self, target: pygame.Surface, text: str, corner: tuple[int, int], colour: Any) -> int:
        """Writes a line from its top left corner and returns where it ends."""
        picture = self._font.render(text, True, colour)
        target.blit(picture, corner)
        return corner[0] + picture.get_width()

    def _paint_recalled(
        self, target: pygame.Surface, corner: tuple[int, int], panel: pygame.Rect, snapshot: Snapshot
    ) -> None:
        """Recalled frames in a row, as many as fit, each with its age in frames."""
        left, top = corner
        if not snapshot.recalled:
            self._write(target, "nothing recalled yet", corner, DIM)
            return
        height = self.settings.thumbnail_px
        for recalled in snapshot.recalled:
            width = round(height * 4 / 3)
            thumbnail_u8 = snapshot.thumbnails.get(recalled.frame)
            if thumbnail_u8 is not None:
                width = round(height * thumbnail_u8.shape[1] / thumbnail_u8.shape[0])
            if left + width > panel.right - self.settings.margin_px:
                break
            box = pygame.Rect(left, top, width, height)
            if thumbnail_u8 is None:
                target.fill(DIM, box)
            else:
                target.blit(pygame.transform.smoothscale(surface_of(thumbnail_u8), box.size), box)
            label = self._font.render(f"{recalled.age} ago", True, DIM)
            target.blit(label, label.get_rect(midtop=(box.centerx, box.bottom + 3)))
            left += max(width, label.get_width()) + self.settings.margin_px


def remembers(snapshot: Snapshot) -> bool:
    """Whether this world ever recalls anything."""
    return snapshot.memory_mode not in (None, "off")


def text_lines(snapshot: Snapshot) -> int:
    """Lines of the panel: an engine has no stages to tell of."""
    return 4 if snapshot.memory_mode is None else 5


def speed_line(snapshot: Snapshot) -> str:
    """Frames a second and latency."""
    rate = "-" if snapshot.frames_per_s is None else f"{snapshot.frames_per_s:.1f}"
    latency = "-" if snapshot.latency_p50_s is None else f"{1000 * snapshot.latency_p50_s:.0f} ms"
    return f"{rate} fps    latency p50: {latency}"


def stages_line(snapshot: Snapshot) -> str:
    """Where the time of the last section went."""
    if not snapshot.timings_s:
        return ""
    return "ms:   " + "   ".join(f"{name} {1000 * part_s:.0f}" for name, part_s in snapshot.timings_s.items())


def keys_line(snapshot: Snapshot) -> str:
    """The keys of the world's actions: "move: W/Up, S/Down   turn: Left, Right"."""
    factors = () if snapshot.action_space is None else snapshot.action_space.factors
    return "   ".join(
        f"{factor.name}: " + ", ".join("/".join(key.title() for key in group) for group in factor.keys)
        for factor in factors
    )


def world_line(snapshot: Snapshot) -> str:
    """Which world, where in it, and what it remembers."""
    if snapshot.frame_u8 is None:
        return snapshot.title
    parts = [snapshot.title, f"seed {snapshot.seed}", f"frame {snapshot.frame}"]
    if snapshot.memory_mode is not None:
        kept = "" if snapshot.memory_frames is None else f" ({snapshot.memory_frames} frames)"
        parts.append(f"memory {snapshot.memory_mode}{kept}")
    if snapshot.recalled:
        parts.append(f"recalled {len(snapshot.recalled)}")
    return "   ".join(parts)
