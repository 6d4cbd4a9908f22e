"""The window, driven by synthetic events under SDL's dummy driver."""

import threading
from pathlib import Path

import numpy as np
import pygame
import pytest
from PIL import Image

from worldsim.episode import Episode
from worldsim.play.hud import Hud, keys_line, world_line
from worldsim.play.recording import Recording
from worldsim.play.screen import Snapshot
from worldsim.play.session import PlaySession, SessionSettings
from worldsim.play.window import PlayWindow, WindowSettings, open_display

SCALE = 6


@pytest.fixture
def play(tmp_path: Path, wait):
    """Opens a window on a world, once the world is there."""
    open_display()
    opened = []

    def begin(world, recording=None, **settings) -> PlayWindow:
        session = PlaySession(lambda: world, SessionSettings(max_fps=0.0), recording)
        options = {"width_px": 16 * SCALE, "screenshots": tmp_path / "screenshots", **settings}
        window = PlayWindow(session, WindowSettings(**options))
        opened.append(window)
        session.start()
        wait(lambda: session.screen.snapshot().phase == "waiting")
        pygame.event.clear()
        window.tick()
        return window

    yield begin
    for window in opened:
        window.destroy()
        window.session.close()


def key(kind: int, code: int, mod: int = 0) -> None:
    pygame.event.post(pygame.event.Event(kind, key=code, mod=mod, unicode="", scancode=0))


def down(code: int, mod: int = 0) -> None:
    key(pygame.KEYDOWN, code, mod)


def up(code: int) -> None:
    key(pygame.KEYUP, code)


def test_held_keys_become_actions_until_the_focus_is_lost(make_world, play, wait) -> None:
    """Guards against pygame.key.get_pressed, which misses events, and against keys that stay down in another window."""
    world = make_world()
    window = play(world)
    down(pygame.K_UP)
    window.tick()
    wait(lambda: [1, 0] in world.actions)
    down(pygame.K_RIGHT)
    window.tick()
    wait(lambda: [1, 2] in world.actions)
    up(pygame.K_UP)
    window.tick()
    wait(lambda: world.actions[-1] == [0, 2])
    pygame.event.post(pygame.event.Event(pygame.WINDOWFOCUSLOST))
    window.tick()
    wait(lambda: window.session.screen.snapshot().phase == "waiting")


def test_contradicting_keys_stand_still(make_world, play, wait) -> None:
    """Guards against W and S together moving somewhere."""
    world = make_world()
    window = play(world)
    for _ in range(100):
        down(pygame.K_w)
        down(pygame.K_s)
        window.tick()
        up(pygame.K_w)
        up(pygame.K_s)
        window.tick()
    assert world.actions == []
    down(pygame.K_w)
    down(pygame.K_s)
    window.tick()
    up(pygame.K_w)
    window.tick()
    wait(lambda: world.actions)
    assert world.actions[0] == [2, 0]


def test_a_slow_world_never_blocks_the_window(make_world, play, wait) -> None:
    """Guards against computing in the window's thread: the player sees a frozen window."""
    world = make_world()
    go_on = threading.Event()
    make, world.step = world.step, lambda actions: make(actions) if go_on.wait(20) else None
    window = play(world)
    down(pygame.K_w)
    window.tick()
    wait(lambda: window.session.screen.snapshot().phase == "playing")
    for code in (pygame.K_h, pygame.K_h, pygame.K_p, pygame.K_p):
        down(code)
        window.tick()
    assert world.actions == []
    go_on.set()
    wait(lambda: world.actions)


def test_the_view_is_sharp_and_the_panel_below_it(make_world, play) -> None:
    """Guards against a panel that covers the view, smoothing, and swapped axes."""
    window = play(make_world())
    surface = pygame.Surface((16 * SCALE, 12 * SCALE + 200))
    frame_u8 = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)
    window.hud_shown = False
    window.paint(surface, Snapshot(frame_u8=frame_u8, phase="playing"))
    shown = pygame.surfarray.array3d(surface).swapaxes(0, 1)
    assert np.array_equal(shown[100 : 100 + 12 * SCALE], frame_u8.repeat(SCALE, 0).repeat(SCALE, 1))
    window.hud_shown = True
    panel_px = Hud("").height_px(Snapshot())
    surface = pygame.Surface((16 * SCALE, 12 * SCALE + panel_px))
    window.paint(surface, Snapshot(frame_u8=frame_u8, phase="playing"))
    shown = pygame.surfarray.array3d(surface).swapaxes(0, 1)
    assert np.array_equal(shown[: 12 * SCALE], frame_u8.repeat(SCALE, 0).repeat(SCALE, 1))
    assert len(np.unique(shown[12 * SCALE :])) > 5


def test_hiding_the_panel_keeps_the_view(make_world, play) -> None:
    """Guards against a hidden panel that leaves its gap, and against thumbnails made for nobody."""
    window = play(make_world())
    assert window.size_px == (16 * SCALE, 12 * SCALE + window.panel_px)
    down(pygame.K_h)
    window.tick()
    assert window.size_px == (16 * SCALE, 12 * SCALE)
    down(pygame.K_h)
    window.tick()
    assert window.size_px == (16 * SCALE, 12 * SCALE + window.panel_px)


def test_pause_restart_and_another_world(make_world, play, wait) -> None:
    """Guards against commands that never reach the world."""
    window = play(make_world())
    down(pygame.K_p)
    window.tick()
    wait(lambda: window.session.screen.snapshot().phase == "paused")
    down(pygame.K_SPACE)
    down(pygame.K_w)
    window.tick()
    wait(lambda: window.session.screen.snapshot().frame > 5)
    up(pygame.K_w)
    down(pygame.K_r)
    window.tick()
    wait(lambda: window.session.screen.snapshot().frame == 2)
    assert window.session.screen.snapshot().seed == 0
    down(pygame.K_r, pygame.KMOD_LSHIFT)
    window.tick()
    wait(lambda: window.session.screen.snapshot().seed != 0)


def test_a_screenshot_is_the_window_in_a_file(make_world, play, tmp_path: Path) -> None:
    """Guards against screenshots that are empty, half written or silent, and an error that ends the game."""
    window = play(make_world())
    down(pygame.K_F12)
    window.tick()
    (path,) = (tmp_path / "screenshots").iterdir()
    assert path.suffix == ".png"
    picture = np.asarray(Image.open(path).convert("RGB"))
    assert picture.shape[1::-1] == window.size_px
    assert picture[0, 0].tolist() == [2, 0, 0]
    blocked = play(make_world(), screenshots=path / "below a file")
    down(pygame.K_c)
    blocked.tick()
    assert blocked.open


def test_closing_keeps_the_recording(make_world, play, wait, tmp_path: Path) -> None:
    """Guards against an episode left unfinished when the window closes in the middle of a section."""
    world = make_world(step_s=0.1)
    recording = Recording(tmp_path / "episodes")
    window = play(world, recording)
    down(pygame.K_w)
    window.tick()
    wait(lambda: len(world.actions) == 2)
    down(pygame.K_ESCAPE)
    window.tick()
    assert not window.open
    assert window.session.close()
    (path,) = recording.episodes
    with Episode.open(path) as episode:
        assert len(episode) == len(world.actions) + 1
        assert episode.frames()[:, 0, 0, 0].tolist() == list(range(2, 3 + len(world.actions)))
        assert episode.actions.tolist() == [[0, 0], *world.actions]
        assert np.isnan(episode.poses).all()


def test_run_raises_what_the_world_raised(tmp_path: Path) -> None:
    """Guards against a broken world that closes the window without a word."""

    def broken():
        raise ValueError("this world is broken; mend it")

    open_display()
    window = PlayWindow(PlaySession(broken, SessionSettings()), WindowSettings())
    with pytest.raises(ValueError, match="this world is broken; mend it"):
        window.run()


def test_lines_of_the_panel(make_world) -> None:
    """Guards against a panel that names keys the world does not have, or counts frames wrongly."""
    from worldsim.play.simulation import RecalledFrame

    recalled = (RecalledFrame(frame=3, age=40, score=0.9), RecalledFrame(frame=30, age=13, score=0.8))
    snapshot = Snapshot(
        title="a world",
        action_space=make_world().action_space,
        frame_u8=np.zeros((2, 2, 3), np.uint8),
        frame=42,
        memory_mode="hybrid",
        memory_frames=43,
        recalled=recalled,
    )
    assert keys_line(snapshot) == "move: W/Up, S/Down   turn: Left, Right"
    line = "a world   seed 0   frame 42   memory hybrid (43 frames)   recalled 2"
    assert world_line(snapshot) == line
