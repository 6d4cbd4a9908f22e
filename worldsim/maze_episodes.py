"""The maze environments and the headers of their episodes: how each is made from the other."""

import dataclasses
import json
from typing import Any, Final, Literal

import gymnasium

import envs  # noqa: F401 - registers the maze
from envs.maze import MazeEnv, MazeEnvSettings
from worldsim.action_space import ActionSpace
from worldsim.episode import Episode
from worldsim.episode_format import EpisodeHeader

Game = Literal["vizdoom", "miniworld"]
"""the engine behind a maze: Doom's, or MiniWorld's (its own extra), on the same maps with other looks"""
ENVIRONMENTS: Final[dict[Game, str]] = {
    "vizdoom": "WorldSim/Maze-v0",
    "miniworld": "WorldSim/MiniWorldMaze-v0",
}


def maze_class(game: Game) -> type[MazeEnv]:
    """The environment of a game. ValueError, one line, where its extra is not installed."""
    if game == "vizdoom":
        return MazeEnv
    from envs.miniworld_maze import MiniWorldMazeEnv

    return MiniWorldMazeEnv


def make_maze(settings: MazeEnvSettings, environment: str = ENVIRONMENTS["vizdoom"]) -> gymnasium.Env:
    """Start a maze environment; close it after use. ValueError, one line, where its extra is not installed."""
    return gymnasium.make(environment, settings=settings, disable_env_checker=True)


@dataclasses.dataclass(frozen=True)
class Mazes:
    """A process's engines: one for all episodes of the same settings. Close them after use."""

    _envs: dict[tuple[str, MazeEnvSettings], gymnasium.Env] = dataclasses.field(default_factory=dict)

    def of(self, episode: Episode, depth: bool = False) -> gymnasium.Env:
        """The engine that an episode was recorded in, which also tells depth if asked to.

        ValueError if the episode is of no maze, or of another version of it.
        """
        try:
            settings = dataclasses.replace(maze_settings(episode.header), depth=depth)
        except ValueError as error:
            raise ValueError(f"{episode.path}: {error}") from None
        game = episode.header.environment, settings
        if game not in self._envs:
            self._envs[game] = make_maze(settings, game[0])
        return self._envs[game]

    def close(self) -> None:
        for env in self._envs.values():
            env.close()


def maze_header(env: gymnasium.Env, info: dict[str, Any]) -> EpisodeHeader:
    """The header of the episode that the maze `env` has just begun; `info` is what its reset told."""
    maze = env.unwrapped
    assert isinstance(maze, MazeEnv)
    return EpisodeHeader(
        environment=maze.environment,
        engine=maze.engine,
        seed=info["seed"],
        map_seed=info["map_seed"],
        map_hash=info["map_hash"],
        action_space=ActionSpace.from_env(env),
        settings=dataclasses.asdict(maze.settings),
    )


def maze_settings(header: EpisodeHeader) -> MazeEnvSettings:
    """The settings that a header tells. Raises ValueError if it is not of the maze, or of another version of it."""
    if header.environment not in ENVIRONMENTS.values():
        known = " and ".join(ENVIRONMENTS.values())
        raise ValueError(f"environment {header.environment!r} cannot be replayed; only {known} can")
    try:
        return _from_json(MazeEnvSettings(), header.settings)
    except TypeError as error:
        raise ValueError(
            f"settings {json.dumps(header.settings)} are not of this {header.environment}: {error}"
        ) from None


def _from_json(defaults: Any, values: dict[str, Any]) -> Any:
    """Like `dataclasses.replace`, for plain JSON values: lists become tuples, objects nested settings."""
    known = {}
    for name, value in values.items():
        default = getattr(defaults, name, None)
        if dataclasses.is_dataclass(default):
            value = _from_json(default, value)
        known[name] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(defaults, **known)
