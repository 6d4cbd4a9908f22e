"""A real engine as something to play: a gymnasium environment behind the window's protocol."""

from dataclasses import asdict
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Int64, UInt8

import envs  # noqa: F401  registers WorldSim/Maze-v0
from envs.maze_map import MazeMap
from worldsim.action_space import ActionSpace
from worldsim.episode_format import EpisodeHeader
from worldsim.play.simulation import Moment, Place

MAZE = "WorldSim/Maze-v0"


class EngineSimulation:
    """Plays the maze environment; the seed chooses the map as well. It keeps no memory.

    `info` is that of the last step, `maze_map` the map one walks on.
    """

    section_length = 1
    memory_mode: str | None = None

    def __init__(self, environment: str = MAZE) -> None:
        self.environment = environment
        self.title = "real engine (vizdoom, cpu)"
        self.info: dict[str, Any] = {}
        self._env = gymnasium.make(environment, disable_env_checker=True)
        self.action_space = ActionSpace.from_env(self._env)

    @property
    def maze_map(self) -> MazeMap:
        """The map one walks on, once the world is open."""
        return self._env.unwrapped.maze_map  # type: ignore[attr-defined, no-any-return]

    def reset(self, seed: int) -> Moment:
        """The start of the map of that seed."""
        frame_u8, self.info = self._env.reset(seed=seed, options={"map_seed": seed})
        return self._moment(frame_u8)

    def step(self, actions: Int64[np.ndarray, "time factors"]) -> Moment:
        """One step of the engine: a section has one frame."""
        frame_u8, _, _, _, self.info = self._env.step(actions[0])
        return self._moment(frame_u8)

    def frame_u8(self, frame: int) -> UInt8[np.ndarray, "height width 3"]:
        """Nothing is ever recalled, so nothing is asked for."""
        raise ValueError(f"frame {frame} is not kept; an engine has no memory")

    def episode_header(self, seed: int) -> EpisodeHeader:
        """Environment, engine and map, so that the recording can be replayed."""
        env = self._env.unwrapped
        return EpisodeHeader(
            environment=self.environment,
            engine=env.engine,  # type: ignore[attr-defined]
            seed=seed,
            map_seed=self.info["map_seed"],
            map_hash=self.info["map_hash"],
            action_space=self.action_space,
            settings=asdict(env.settings),  # type: ignore[attr-defined]
        )

    def close(self) -> None:
        """Ends the engine."""
        self._env.close()

    def _moment(self, frame_u8: UInt8[np.ndarray, "height width 3"]) -> Moment:
        place = Place(pose=self.info["pose"], room=self.info["room"], tic=self.info["tic"])
        return Moment(frames_u8=frame_u8[None], places=(place,))
