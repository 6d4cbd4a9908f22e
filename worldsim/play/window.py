"""The window: key events in, snapshots out at 60 a second, whatever the world is doing."""

import os
import random
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Literal

import pygame

from worldsim.files import write_bytes_atomic
from worldsim.play.hud import Hud, keys_line, surface_of
from worldsim.play.screen import Snapshot
from worldsim.play.session import PlaySession

BACKGROUND = (8, 8, 10)
NOTE_S = 3.0
SEEDS = 1_000_000
COMMANDS_LINE = "R restart   Shift+R new world   P pause   C screenshot   H hide   Esc quit"
NO_DISPLAY = (
    "no display to open a window on; set DISPLAY, or make a video instead: "
    "play.py --headless --frames 200 --out walk.mp4"
)


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """width_px: about how wide the view opens; scaling "integer" keeps pixels square and sharp, "smooth" fills."""

    width_px: int = 768
    scaling: Literal["integer", "smooth"] = "integer"
    hud: bool = True
    repaints_per_s: int = 60
    screenshots: Path = field(default_factory=lambda: Path("screenshots").resolve())


def open_display() -> None:
    """Starts pygame's display; OSError when there is no screen to show a window on."""
    asked = os.environ.get("SDL_VIDEODRIVER")
    screens = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not asked and not screens:
        raise OSError(NO_DISPLAY)
    try:
        pygame.display.init()
    except pygame.error as error:
        raise OSError(f"{NO_DISPLAY} ({error})") from None
    if not asked and pygame.display.get_driver() in ("offscreen", "dummy"):
        pygame.display.quit()
        raise OSError(NO_DISPLAY)
    pygame.font.init()


class PlayWindow:
    """Shows a session and sends it the player's keys. Call `open_display` first, then `run`, once."""

    def __init__(self, session: PlaySession, settings: WindowSettings | None = None) -> None:
        self.session = session
        self.settings = settings or WindowSettings()
        self.hud_shown = self.settings.hud
        self.open = True
        self.frames_painted = 0
        self._hud = Hud(COMMANDS_LINE)
        self._welcomed = False
        self._note = ""
        self._note_until_s = 0.0
        self._painted: tuple[object, ...] = ()
        size = (self.settings.width_px, self.settings.width_px * 3 // 4 + self._hud.height_px(Snapshot()))
        self._window = pygame.Window("WorldSim", size, resizable=True)
        pygame.key.stop_text_input()
        session.want_thumbnails(self.hud_shown)

    def run(self) -> bool:
        """Plays until the window is closed or the worker ends.

        Raises what the worker raised. False when the worker had to be left behind in a section that takes too
        long; the recording is complete even then.
        """
        clock = pygame.time.Clock()
        self.session.start()
        try:
            while self.open and self.session.running:
                self.tick()
                clock.tick(self.settings.repaints_per_s)
        finally:
            self.destroy()
            ended = self.session.close()
        if self.session.error is not None:
            raise self.session.error
        return ended

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the window."""
        return self._window.size

    @property
    def panel_px(self) -> int:
        """Height of the panel when it is shown."""
        return self._hud.height_px(self.session.screen.snapshot())

    def tick(self) -> None:
        """One pass: all waiting events, then a repaint if something changed."""
        with self.session.at_once():  # W and S of one pass stand still; W alone would be a step
            for event in pygame.event.get():
                self.handle(event)
        snapshot = self.session.screen.snapshot()
        if time.monotonic() > self._note_until_s:
            self._note = ""
        if not self._welcomed and snapshot.frame_u8 is not None:
            self._welcome(snapshot)
        surface = self._window.get_surface()
        state = (
            snapshot.version,
            snapshot.frames_per_s and round(snapshot.frames_per_s, 1),
            self._note,
            self.hud_shown,
            surface.get_size(),
        )
        if state != self._painted:
            self._painted = state
            self.paint(surface, snapshot)
            self._window.flip()
            self.frames_painted += 1

    def handle(self, event: pygame.event.Event) -> None:
        """One event of the window."""
        if event.type == pygame.QUIT:
            self.open = False
        elif event.type == pygame.KEYDOWN:
            self._key_down(event)
        elif event.type == pygame.KEYUP:
            self.session.release(pygame.key.name(event.key))
        elif event.type == pygame.WINDOWFOCUSLOST:
            self.session.release_all()
        elif event.type in (pygame.WINDOWEXPOSED, pygame.WINDOWSIZECHANGED):
            self._painted = ()

    def _key_down(self, event: pygame.event.Event) -> None:
        """Every key goes to the world; those it has no use for may be the window's own."""
        key = pygame.key.name(event.key)
        self.session.press(key)
        snapshot = self.session.screen.snapshot()
        if event.key == pygame.K_ESCAPE:
            self.open = False
        elif snapshot.action_space is not None and key in snapshot.action_space.keys:
            return
        elif event.key in (pygame.K_p, pygame.K_SPACE):
            self.session.toggle_pause()
        elif event.key == pygame.K_h:
            self._toggle_hud(snapshot)
        elif event.key == pygame.K_r:
            another = bool(event.mod & pygame.KMOD_SHIFT)
            self.session.reset(random.SystemRandom().randrange(SEEDS) if another else snapshot.seed)
        elif event.key in (pygame.K_c, pygame.K_F12):
            self.note(self._save_screenshot())

    def destroy(self) -> None:
        """Takes the window off the screen."""
        self._window.destroy()

    def note(self, text: str) -> None:
        """Shows a line over the view for three seconds."""
        self._note, self._note_until_s = text, time.monotonic() + NOTE_S

    def paint(self, target: pygame.Surface, snapshot: Snapshot) -> None:
        """The view, as large as it fits, over the panel."""
        area = target.get_rect()
        target.fill(BACKGROUND)
        if self.hud_shown:
            panel = area.copy()
            panel.height = min(self._hud.height_px(snapshot), area.height)
            panel.bottom = area.bottom
            area.height -= panel.height
            self._hud.paint(target, panel, snapshot)
        view = area
        if snapshot.frame_u8 is not None and area.height > 0:
            picture = surface_of(snapshot.frame_u8)
            view = self._view_box(picture, area)
            scale = (
                pygame.transform.smoothscale if self.settings.scaling == "smooth" else pygame.transform.scale
            )
            target.blit(scale(picture, view.size), view)
        if snapshot.phase in ("loading", "paused"):
            self._hud.write_centred(target, {"loading": "loading…", "paused": "paused"}[snapshot.phase], view)
        if self._note:
            self._hud.write_note(target, self._note, view)

    def _view_box(self, picture: pygame.Surface, area: pygame.Rect) -> pygame.Rect:
        width, height = picture.get_size()
        scale = min(area.width / width, area.height / height)
        if self.settings.scaling == "integer" and scale >= 1:
            scale = int(scale)
        box = pygame.Rect(0, 0, max(1, round(width * scale)), max(1, round(height * scale)))
        box.center = area.center
        return box

    def _welcome(self, snapshot: Snapshot) -> None:
        """Sizes the window for whole multiples of the first frame; names the world and its keys."""
        self._welcomed = True
        self._window.size = self._fitting_size(snapshot)
        self._window.title = f"WorldSim: {snapshot.title}"
        print(f"{snapshot.title}, seed {snapshot.seed}: {keys_line(snapshot)}   {COMMANDS_LINE}", flush=True)

    def _fitting_size(self, snapshot: Snapshot) -> tuple[int, int]:
        """Width and height of a window that shows each pixel of the frame as a whole square."""
        assert snapshot.frame_u8 is not None
        height, width = snapshot.frame_u8.shape[:2]
        scale = max(1, self.settings.width_px // width)
        return width * scale, height * scale + (self._hud.height_px(snapshot) if self.hud_shown else 0)

    def _toggle_hud(self, snapshot: Snapshot) -> None:
        """Shows or hides the panel; a window that the player has not resized keeps its view and changes its height."""
        fitting = self._welcomed and self._window.size == self._fitting_size(snapshot)
        self.hud_shown = not self.hud_shown
        self.session.want_thumbnails(self.hud_shown)
        if fitting:
            self._window.size = self._fitting_size(snapshot)

    def _save_screenshot(self) -> str:
        """Saves the window as it looks, and says where; a full disk is told and does not end the game."""
        snapshot = self.session.screen.snapshot()
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
        path = self.settings.screenshots / f"worldsim-{stamp}-seed{snapshot.seed}-frame{snapshot.frame}.png"
        surface = self._window.get_surface().copy()
        self._note = ""
        self.paint(surface, snapshot)
        data = BytesIO()
        pygame.image.save(surface, data, "screenshot.png")
        try:
            write_bytes_atomic(path, data.getvalue())
        except OSError as error:
            return f"no screenshot: {error.strerror}: {path}"
        return f"saved {path.parent.name}/{path.name}"
