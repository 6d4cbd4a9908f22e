"""The scripted player, walked through real mazes."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from envs.explorer import Explorer, ExplorerSettings
from envs.maze import MazeEnv
from envs.maze_map import MazeMap
from envs.route import free_ahead, rooms_between

EPISODES, STEPS = 10, 400
Walk = tuple[MazeMap, np.ndarray, np.ndarray, list[int]]


@pytest.fixture(scope="module")
def walks() -> list[Walk]:
    """Return map, actions, poses and rooms of some episodes."""
    env = MazeEnv()
    walked = []
    for seed in range(EPISODES):
        _, info = env.reset(seed=seed)
        explorer = Explorer(env.maze_map, seed)
        actions, poses, rooms = [], [], []
        for _ in range(STEPS):
            actions.append(explorer.act(info["pose"]))
            _, _, _, _, info = env.step(actions[-1])
            poses.append(info["pose"])
            rooms.append(info["room"])
        walked.append((env.maze_map, np.array(actions), np.array(poses), rooms))
    env.close()
    return walked


def test_all_keys_are_used(walks: list[Walk]) -> None:
    """A model learns only the keys it has seen: all 27 combinations, none of a factor's choices rare."""
    actions = np.concatenate([walk[1] for walk in walks])
    assert actions.dtype == np.int64
    assert len(Counter(map(tuple, actions.tolist()))) == 27
    for factor in range(3):
        shares = np.bincount(actions[:, factor], minlength=3) / len(actions)
        assert shares.min() > 0.04
    assert ((actions[:, 0] > 0) & (actions[:, 1] > 0)).mean() > 0.1
    assert (actions[:, 0] == 1).mean() > 0.25


def test_it_explores_and_comes_back(walks: list[Walk]) -> None:
    """Without returns after short and long absences there is nothing to learn remembering from."""
    visited, gaps = [], []
    for _, _, _, rooms in walks:
        visited.append(len(set(rooms)))
        last: dict[int, int] = {}
        for step, room in enumerate(rooms):
            if step and rooms[step - 1] != room and room in last:
                gaps.append(step - last[room])
            last[room] = step
    assert np.mean(visited) >= 6.0
    assert min(visited) >= 3
    assert sum(20 <= gap <= 60 for gap in gaps) >= EPISODES
    assert sum(gap >= 100 for gap in gaps) >= EPISODES


def test_it_is_seldom_stuck_or_staring_at_a_wall(walks: list[Walk]) -> None:
    """Frames of a wall at the player's nose, or of pushing against one, teach nothing."""
    stuck = staring = 0
    for maze_map, actions, poses, _ in walks:
        for step in range(5, STEPS):
            pushed = (actions[step - 4 : step + 1, [0, 2]] > 0).any(axis=1).all()
            stuck += pushed and np.hypot(*(poses[step] - poses[step - 5])[:2]) < 12.0
        for x, y, _, yaw_deg in poses.tolist():
            staring += free_ahead(maze_map, x, y, math.radians(yaw_deg)) < 48.0
    assert stuck / (EPISODES * STEPS) < 0.02
    assert staring / (EPISODES * STEPS) < 0.06


def test_deterministic_from_seed_and_poses(walks: list[Walk]) -> None:
    """Episodes are made again from their seeds after a kill."""
    maze_map, _, poses, _ = walks[0]
    first, second, other = Explorer(maze_map, 3), Explorer(maze_map, 3), Explorer(maze_map, 4)
    runs = [np.array([explorer.act(pose) for pose in poses[:120]]) for explorer in (first, second, other)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


def test_one_who_leans_stands_at_walls_for_longer_than_the_context_reaches() -> None:
    """A model that never saw it drew another place once all of its context showed one wall."""
    env = MazeEnv()
    leant = []
    for seed in range(4):
        _, info = env.reset(seed=seed)
        explorer = Explorer(env.maze_map, seed, ExplorerSettings(lean=0.6))
        still = longest = 0
        for _ in range(STEPS):
            before, action = info["pose"], explorer.act(info["pose"])
            *_, info = env.step(action)
            still = still + 1 if action[0] and np.hypot(*(info["pose"] - before)[:2]) < 1.0 else 0
            longest = max(longest, still)
        leant.append(longest)
    env.close()
    assert np.median(leant) > 22


def test_shortest_ways_and_free_distance() -> None:
    """A way through a wall would end in pushing against it."""
    maze_map = MazeMap.generate(1)
    rng = np.random.default_rng(0)
    for goal in range(1, len(maze_map.rooms)):
        way = [0, *rooms_between(maze_map, 0, goal, rng)]
        assert way[-1] == goal
        assert all(after in maze_map.neighbours[before] for before, after in pairwise(way))
    assert free_ahead(maze_map, 100.0, 128.0, math.pi) == pytest.approx(100.0)
    door = maze_map.doors[0]
    x, y = door.centre
    start, heading = ((x - 60, y), 0.0) if door.eastward else ((x, y - 60), math.pi / 2)
    assert free_ahead(maze_map, *start, heading) == math.inf


def test_settings_out_of_range() -> None:
    """Weights that leave nowhere to go would fail deep inside an episode."""
    with pytest.raises(ValueError, match=r"look 1\.5"):
        ExplorerSettings(look=1.5)
    with pytest.raises(ValueError, match="near"):
        ExplorerSettings(near=0.0)
