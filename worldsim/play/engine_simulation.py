"""A real engine as something to play: the maze environment behind the window's protocol."""

from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from envs.maze import MazeEnv, MazeEnvSettings
from envs.maze_map import MazeMap
from worldsim.action_space import ActionSpace
from worldsim.episode_format import EpisodeHeader
from worldsim.maze_episodes import make_maze, maze_header
from worldsim.play.simulation import Moment, Place


class EngineSimulation:
    """Plays the maze environment; the seed chooses the map as well. It keeps no memory."""

    section_length = 1
    memory_mode: str | None = None

    def __init__(self) -> None:
        self._env = make_maze(MazeEnvSettings())
        self._info: dict[str, Any] = {}
        self.action_space = ActionSpace.from_env(self._env)
        self.title = "real engine (cpu)"

    @property
    def maze_map(self) -> MazeMap:
        """The map one walks on, once the world is open."""
        maze = self._env.unwrapped
        assert isinstance(maze, MazeEnv)
        assert maze.maze_map is not None
        return maze.maze_map

    def reset(self, seed: int) -> Moment:
        """The start of the map of that seed."""
        frame_u8, self._info = self._env.reset(seed=seed, options={"map_seed": seed})
        return self._moment(frame_u8)

    def step(self, actions: Int64[np.ndarray, "time factors"]) -> Moment:
        """One step of the engine: a section has one frame."""
        frame_u8, _, _, _, self._info = self._env.step(actions[0])
        return self._moment(frame_u8)

    def frame_u8(self, frame: int) -> UInt8[np.ndarray, "height width 3"]:
        """Nothing is ever recalled, so nothing is asked for."""
        raise ValueError(f"frame {frame} is not kept; an engine has no memory")

    def episode_header(self, seed: int) -> EpisodeHeader:
        """Environment, engine and map, so that the recording can be replayed."""
        return maze_header(self._env, self._info)

    def close(self) -> None:
        """Ends the engine."""
        self._env.close()

    def _moment(self, frame_u8: UInt8[np.ndarray, "height width 3"]) -> Moment:
        place = Place(pose=self._info["pose"], room=self._info["room"], tic=self._info["tic"])
        return Moment(frames_u8=frame_u8[None], places=(place,))
