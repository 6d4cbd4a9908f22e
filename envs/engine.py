"""The game engine as one process of one environment: started, given a map, stepped, stopped."""

import ctypes
import os
import threading
import weakref
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import vizdoom
from jaxtyping import Float32, UInt8
from vizdoom import Button, GameVariable

from envs.colours import GAME_WAD
from envs.engine_folder import EngineFolder
from envs.one_cpu import on_one_cpu
from envs.palette import textures_lump
from envs.wad import MapSlots

BUTTONS = (
    (Button.MOVE_FORWARD, Button.MOVE_BACKWARD),
    (Button.TURN_LEFT, Button.TURN_RIGHT),
    (Button.MOVE_LEFT, Button.MOVE_RIGHT),
)
_VARIABLES = (GameVariable.POSITION_X, GameVariable.POSITION_Y, GameVariable.POSITION_Z, GameVariable.ANGLE)
_HIDDEN = ("hud", "minimal_hud", "crosshair", "weapon", "decals", "particles", "messages", "corpses",
           "effects_sprites", "screen_flashes")  # fmt: skip
_FIRST_TIC = 10  # before, the engine holds the player still and keys do nothing
_FAILURES = (
    vizdoom.ViZDoomErrorException,
    vizdoom.ViZDoomUnexpectedExitException,
    vizdoom.ViZDoomIsNotRunningException,
)
_start_lock = threading.Lock()
_games: "weakref.WeakSet[vizdoom.DoomGame]" = weakref.WeakSet()


def _leave_games_to_parent() -> None:
    """Keep a forked child from ever destroying its parent's games: the destructor would end their engines."""
    for game in list(_games):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(game))


os.register_at_fork(after_in_child=_leave_games_to_parent)


def _stop(game: vizdoom.DoomGame, folder: EngineFolder, owner: int) -> None:
    if os.getpid() == owner:
        folder.kill_engine()
        game.close()
        folder.delete()


class Engine:
    """One engine process in a working folder of its own; it ends with `close`, or with this object."""

    def __init__(self, textmap: bytes, width: int, height: int, depth: bool):
        """Start the engine on a text map with a screen of width × height pixels, one of the sizes it knows.

        Another size raises ValueError, an engine that does not start RuntimeError.
        """
        resolution = getattr(vizdoom.ScreenResolution, f"RES_{width}X{height}", None)
        if resolution is None:
            raise ValueError(
                f"the engine has no screen of {width}x{height} pixels; try 256x192, 512x384, 640x480"
            )
        self._owner = os.getpid()
        self.folder = folder = EngineFolder()
        self._slots = MapSlots(folder.path / "maps.wad", [("TEXTURES", textures_lump())])
        self._slots.put(textmap)  # the engine does not survive a start on a map without text
        self._game = _new_game(resolution, depth, self._slots.path)
        self._game.set_vizdoom_path(str(folder.executable()))
        _games.add(self._game)
        self._stop = weakref.finalize(self, _stop, self._game, folder, self._owner)
        try:
            self._start(folder)
        except _FAILURES as error:
            self._stop()
            raise RuntimeError(
                f"the engine did not start: {_one_line(error)}; check the vizdoom package"
            ) from error

    def _start(self, folder: EngineFolder) -> None:
        # Engines that share a working folder race on ./_vizdoom; only the start looks at it.
        with _start_lock:
            before = os.getcwd()
            os.chdir(folder.path)
            try:
                self._game.init()
            finally:
                os.chdir(before)

    def load(self, textmap: bytes, seed: int) -> None:
        """Start an episode on this text map."""
        self._check()
        try:
            self._game.set_doom_map(self._slots.put(textmap))
            self._game.set_seed(seed)
            self._game.new_episode()
        except _FAILURES as error:
            raise self._gone() from error

    def advance(self, buttons: list[bool], tics: int) -> None:
        """Hold these buttons (order of BUTTONS, flattened) for this many tics."""
        self._check()
        try:
            self._game.make_action(buttons, tics)
        except _FAILURES as error:
            raise self._gone() from error

    def look(
        self,
    ) -> tuple[UInt8[np.ndarray, "screen_height screen_width"], Float32[np.ndarray, "4"], int]:
        """Return the screen in palette numbers, the pose (x, y, z, yaw in degrees) and the tics since the start."""
        state = self._state()
        pose = np.asarray(state.game_variables, dtype=np.float32)
        pose[3] %= np.float32(360.0)
        return state.screen_buffer, pose, int(state.tic) - _FIRST_TIC

    def look_depth(self) -> UInt8[np.ndarray, "screen_height screen_width"]:
        """Return the engine's depth buffer; RuntimeError if the engine was started without one."""
        depth = self._state().depth_buffer
        if depth is None:
            raise RuntimeError("the engine was started without a depth buffer; ask for depth=True")
        return depth

    def _state(self) -> vizdoom.GameState:
        state = self._game.get_state()
        if state is None:
            raise self._gone()
        return state

    def _check(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError(
                f"the engine belongs to process {self._owner}, not {os.getpid()}; make the environment in "
                "the process that steps it"
            )
        if not self._stop.alive:
            raise RuntimeError("the environment is closed; make a new one")
        if not self._game.is_running():
            raise self._gone()

    def _gone(self) -> RuntimeError:
        self._stop()
        return RuntimeError("the engine has stopped; make a new environment")

    def on_one_cpu(self) -> AbstractContextManager[None]:
        """Keep the engine and the calling thread on one CPU within a block; see `envs.one_cpu`."""
        return on_one_cpu(self.folder.engine_pid())

    def close(self) -> None:
        """End the engine and delete its folder; harmless when done twice or in a forked child."""
        self._stop()


def _new_game(resolution: vizdoom.ScreenResolution, depth: bool, wad: Path) -> vizdoom.DoomGame:
    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(GAME_WAD))
    game.set_doom_scenario_path(str(wad))
    game.set_doom_map("map01")
    game.set_screen_resolution(resolution)
    game.set_screen_format(vizdoom.ScreenFormat.DOOM_256_COLORS8)
    game.set_depth_buffer_enabled(depth)
    for name in _HIDDEN:
        getattr(game, f"set_render_{name}")(False)
    game.add_game_args(
        "+movebob 0"
    )  # steps would swing the eyes by 5 units: a view would not be its pose's alone
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout(0)
    game.set_episode_start_time(_FIRST_TIC)
    game.set_available_buttons([button for pair in BUTTONS for button in pair])
    game.set_available_game_variables(list(_VARIABLES))
    return game


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
