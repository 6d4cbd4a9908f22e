"""The maze in MiniWorld: the same maps and keys as in the other engine. Skipped without the extra `miniworld`."""

import math
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import miniworld_engine
from envs.explorer import Explorer
from envs.maze import MazeEnv, MazeEnvSettings
from envs.maze_map import MazeMap, MazeMapSettings
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.replayed_depth import replayed_depths
from worldsim.record import RecordSettings, record
from worldsim.replay import replay

# Importing it would open a display; the engine tells pyglet first that there is none.
installed = pytest.mark.skipif(find_spec("miniworld") is None, reason="needs the extra miniworld")
SETTINGS = MazeEnvSettings(supersample=2, depth=True, map=MazeMapSettings(twins=True))


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(miniworld_engine, "version", missing)
    with pytest.raises(
        ValueError, match=r"^miniworld is not installed; run pip install 'worldsim\[miniworld\]'$"
    ):
        miniworld_engine.miniworld_version()


@pytest.fixture(scope="module")
def env() -> Iterator[MazeEnv]:
    from envs.miniworld_maze import MiniWorldMazeEnv

    env = MiniWorldMazeEnv(SETTINGS)
    yield env
    env.close()


def walk(env: MazeEnv, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    frame, info = env.reset(seed=seed, options={"map_seed": seed})
    assert env.maze_map is not None
    player = Explorer(env.maze_map, seed)
    frames, poses, rooms = [frame], [info["pose"]], [info["room"]]
    for _ in range(steps):
        frame, _, _, _, info = env.step(player.act(info["pose"]))
        frames.append(frame)
        poses.append(info["pose"])
        rooms.append(info["room"])
    return np.stack(frames), np.stack(poses), rooms


@installed
def test_it_is_an_environment(env: MazeEnv) -> None:
    check_env(env, skip_render_check=True)


@installed
def test_the_explorer_gets_around_and_every_walk_can_be_walked_again(env: MazeEnv) -> None:
    """Guards against a player who sticks at walls or passes them, and against frames that no seed gives again."""
    frames, poses, rooms = walk(env, 5, 150)
    again, same, _ = walk(env, 5, 150)
    assert np.array_equal(frames, again)
    assert np.array_equal(poses, same)
    assert len(set(rooms)) >= 4
    maze_map = MazeMap.generate(5, SETTINGS.map)
    assert all(maze_map.is_inside(float(x), float(y), 0.0) for x, y in poses[:, :2])


@installed
def test_the_view_is_as_wide_as_the_other_engine_s_and_depth_is_along_its_axis(env: MazeEnv) -> None:
    """Guards against another field of view or mirrored headings: co-visibility is worked out for 90 degrees."""
    x, y = MazeMap.generate(5, SETTINGS.map).rooms[6].centre
    doom = MazeEnv(MazeEnvSettings(depth=True, map=SETTINGS.map))
    for yaw_deg in (0, 90, 180, 270):
        spawn = {"map_seed": 5, "spawn": (int(x), int(y), yaw_deg)}
        _, ours = env.reset(seed=0, options=spawn)
        _, told = doom.reset(seed=0, options=spawn)
        assert np.allclose(ours["pose"][[0, 1, 3]], told["pose"][[0, 1, 3]], atol=0.1)
        # Rows that show the wall above its doors, 128 units off; Doom's pixels are a fifth higher than wide.
        for depth, row in ((ours["depth"], 10), (told["depth"], 4)):
            assert np.abs(depth[row, 32:96] - 128.0).max() < 8.0
    doom.close()


@installed
def test_keys_turn_and_move_as_in_the_other_engine(env: MazeEnv) -> None:
    """Scripted players brake and turn by what the other engine does."""
    room = MazeMap.generate(5, SETTINGS.map).rooms[6]
    spawn = int(room.centre[0]) - 60, int(room.centre[1]), 0
    other = MazeEnv(MazeEnvSettings(map=SETTINGS.map))
    ended = []
    for each in (env, other):
        _, info = each.reset(seed=0, options={"map_seed": 5, "spawn": spawn})
        for action in (
            ([1, 0, 0],) * 3 + ([0, 0, 0],) * 8 + ([0, 1, 0],) * 4 + ([0, 0, 1],) * 2 + ([0, 0, 0],) * 8
        ):
            *_, info = each.step(np.array(action))
        ended.append(info["pose"])
    other.close()
    assert math.hypot(*(ended[0] - ended[1])[:2]) < 8.0
    assert abs(ended[0][3] - ended[1][3]) < 4.0


@installed
def test_recordings_replay_exactly_and_tell_depth(tmp_path: Path) -> None:
    """Guards against a game that records and cannot be checked."""
    record(
        RecordSettings(
            out=tmp_path,
            episodes=1,
            workers=1,
            steps=24,
            game="miniworld",
            env=MazeEnvSettings(supersample=2),
        )
    )
    assert replay(tmp_path, 1).exact
    held_out = HeldOut(tmp_path)
    assert held_out.headers[0].environment == "WorldSim/MiniWorldMaze-v0"
    assert held_out.headers[0].engine.startswith("miniworld ")
    assert replayed_depths(held_out, {0: 6})[0].shape == (6, 96, 128)
