"""The maze in MiniWorld as a gymnasium environment: the same maps, keys and poses, another engine and other looks."""

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, UInt8

from envs.maze import MazeEnv, Screen
from envs.maze_map import MazeMap
from envs.miniworld_engine import MiniWorldEngine, miniworld_version
from envs.room import Spawn


class MiniWorldMazeEnv(MazeEnv):
    """`MazeEnv` with MiniWorld behind it; needs `pip install 'worldsim[miniworld]'` and OpenGL with EGL, no screen.

    Depth is MiniWorld's own, the nearest of a pixel's. The same (map seed, seed, actions) give the same frames on one
    machine; another driver may round them otherwise.
    """

    environment: ClassVar[str] = "WorldSim/MiniWorldMaze-v0"
    engine: ClassVar[str] = miniworld_version()

    def _start(self) -> Any:
        scale = self.settings.supersample
        return MiniWorldEngine(self.settings.width * scale, self.settings.height * scale, self.settings.map)

    def _load(self, maze_map: MazeMap, spawn: Spawn) -> None:
        self._engine.load(maze_map, spawn)

    def _advance(self, values: list[int]) -> None:
        self._engine.advance(values, self.settings.tics_per_step)

    def _depth(self) -> Float32[np.ndarray, "height width"]:
        return _blocks(self._engine.look_depth(), self.settings.supersample).min(axis=(1, 3))

    def frame_of(self, screen: Screen) -> UInt8[np.ndarray, "height width 3"]:
        """The screen averaged over `supersample` × `supersample` pixels."""
        return _blocks(screen, self.settings.supersample).mean(axis=(1, 3)).round().astype(np.uint8)


def _blocks(screen: np.ndarray, scale: int) -> np.ndarray:
    height, width = screen.shape[:2]
    return screen.reshape(height // scale, scale, width // scale, scale, *screen.shape[2:])
