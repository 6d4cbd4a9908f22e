"""Plans of recorded mazes: the game agrees about where players can stand, and so does a walk through every unit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.maze_map import MazeMap
from worldsim.episode import Episode, list_episodes
from worldsim.maze_episodes import maze_settings
from worldsim.record import RecordSettings, record
from worldsim.training import floor_plans
from worldsim.training.floor_plans import FloorPlans

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("episodes")
    record(RecordSettings(out=folder, episodes=3, steps=250, workers=1, seed=40))
    return list_episodes(folder)


def maze_of(path: Path) -> tuple[MazeMap, np.ndarray]:
    """Its map, and where the player has been."""
    with Episode.open(path) as episode:
        maze = MazeMap.generate(episode.header.map_seed, maze_settings(episode.header).map)
        return maze, episode.poses[:, :2]


def test_players_have_never_been_where_none_can_stand(paths: list[Path]) -> None:
    """And where they were stopped, one map unit further would be too far."""
    plans = FloorPlans.of(paths, CPU)
    assert plans is not None
    touched = 0
    for number, path in enumerate(paths):
        been = torch.from_numpy(maze_of(path)[1])[:, None]
        episode = torch.full((len(been),), number)
        assert not plans.blocked(episode, been).any()
        around = been + torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        touched += int(plans.blocked(episode, around).any(1).sum())
    assert touched > 20


def test_plans_agree_with_a_search_through_the_square_of_a_player(paths: list[Path]) -> None:
    plans = FloorPlans.of(paths, CPU)
    assert plans is not None
    generator, square = np.random.default_rng(0), np.linspace(-16 + 1e-3, 16 - 1e-3, 9)
    for number, path in enumerate(paths):
        maze = maze_of(path)[0]
        x1, y1 = np.max([room.box[2:] for room in maze.rooms], 0)
        places = generator.uniform((-40, -40), (x1 + 40, y1 + 40), (150, 2)).round(1)
        told = plans.blocked(torch.full((150,), number), torch.from_numpy(places).float()[:, None])[:, 0]
        for (x, y), blocked in zip(places, told.tolist(), strict=True):
            inside = all(maze.is_inside(x + dx, y + dy, -1e-3) for dx in square for dy in square)
            clear = all(
                max(abs(x - each.x), abs(y - each.y)) >= 16 + each.kind.radius for each in maze.things
            )
            assert blocked is not (inside and clear), (x, y)
        assert 0.1 < float(told.float().mean()) < 0.9


def test_games_without_plans_have_none(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def foreign(header):
        return maze_settings(replace(header, environment="Another/Game-v0"))

    monkeypatch.setattr(floor_plans, "maze_settings", foreign)
    assert FloorPlans.of(paths, CPU) is None
