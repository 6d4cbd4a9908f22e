"""The environment against the engine: interface, exact replay, poses, depth, many processes, failures."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

import envs
from envs.colours import average_frame, screen_palette
from envs.maze import MazeEnv, MazeEnvSettings
from envs.maze_map import MazeMap, MazeMapSettings

ROOT = Path(envs.__file__).parent.parent
ACTIONS = np.random.default_rng(7).integers(0, 3, (60, 3))

SCRIPT = """
import hashlib, sys
import numpy as np
from envs.maze import MazeEnv
env = MazeEnv()
frame, info = env.reset(seed=11, options={"map_seed": 4})
digest = hashlib.sha256(frame.tobytes())
for action in np.random.default_rng(7).integers(0, 3, (60, 3)):
    frame, _, _, _, info = env.step(action)
    digest.update(frame.tobytes() + info["pose"].tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def env() -> Iterator[MazeEnv]:
    made = MazeEnv()
    yield made
    made.close()


def _engine_pids(env: MazeEnv) -> list[int]:
    """Return the processes that have this environment's map file on their command line."""
    needle = str(env._engine._slots.path).encode()
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and needle in (entry / "cmdline").read_bytes():
                pids.append(int(entry.name))
        except OSError:
            continue
    return pids


def test_gymnasium_accepts_it() -> None:
    """Spaces, seeds and return types must be what gymnasium promises to callers (warnings are errors here)."""
    made = gymnasium.make("WorldSim/Maze-v0", render_mode="rgb_array")
    check_env(made.unwrapped)
    frame, _ = made.reset(seed=0)
    assert frame.shape == (96, 128, 3)
    np.testing.assert_array_equal(made.render(), frame)
    made.close()


def test_replay_is_exact_also_across_processes_in_one_folder(env: MazeEnv, tmp_path: Path) -> None:
    """Recorded episodes are proven by replay; engines started in one folder at once must not disturb each other."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    env.reset(seed=3, options={"map_seed": 9})  # whatever came before must not matter
    env.step([1, 1, 1])
    frame, info = env.reset(seed=11, options={"map_seed": 4})
    digest = hashlib.sha256(frame.tobytes())
    for action in ACTIONS:
        frame, _, _, _, info = env.step(action)
        digest.update(frame.tobytes() + info["pose"].tobytes())
    assert [child.communicate(timeout=60)[0].strip() for child in children] == [digest.hexdigest()] * 3
    assert list(tmp_path.iterdir()) == []


def test_seed_decides_map_and_start(env: MazeEnv) -> None:
    """An episode must be found again from what `info` tells about it, with or without a seed given."""
    frame, info = env.reset(seed=5)
    again, same = env.reset(seed=5, options={"map_seed": info["map_seed"]})
    np.testing.assert_array_equal(frame, again)
    assert same["map_hash"] == info["map_hash"]
    other, unlike = env.reset(seed=5, options={"map_seed": info["map_seed"] + 1})
    assert unlike["map_hash"] != info["map_hash"]
    assert (other != frame).mean() > 0.5
    drawn, told = env.reset()
    found, _ = env.reset(seed=told["seed"])
    np.testing.assert_array_equal(drawn, found)
    starts = {tuple(env.reset(seed=seed, options={"map_seed": 0})[1]["pose"]) for seed in range(12)}
    assert len(starts) == 12


def test_pose_room_and_motion(env: MazeEnv) -> None:
    """Axes, signs and units of the pose: every later measure of memory stands on them."""
    maze_map = MazeMap.generate(2)
    for room in maze_map.rooms:
        x, y = (int(value) for value in room.centre)
        _, info = env.reset(seed=0, options={"map_seed": 2, "spawn": (x, y, 450)})
        np.testing.assert_allclose(info["pose"], [x, y, 0.0, 90.0], atol=1e-3)
        assert info["pose"].dtype == np.float32
        assert info["room"] == room.index
    for action, axis, sign in (([1, 0, 0], 1, 1), ([2, 0, 0], 1, -1), ([0, 0, 1], 0, -1), ([0, 0, 2], 0, 1)):
        moved = _walk(env, action)
        assert sign * moved[axis] > 30.0
        assert abs(moved[1 - axis]) < 1.0
    assert 10.0 < _walk(env, [0, 1, 0])[3] < 60.0
    assert -60.0 < _walk(env, [0, 2, 0])[3] < -10.0


def _walk(env: MazeEnv, action: list[int]) -> np.ndarray:
    """Return the change of pose over three steps from a free place, facing north."""
    maze_map = MazeMap.generate(2)
    x, y = next(
        (x, y)
        for x in range(80, 180, 8)
        for y in range(80, 180, 8)
        if all(np.hypot(x - thing.x, y - thing.y) > 90 for thing in maze_map.things)
    )
    first = env.reset(seed=0, options={"map_seed": 2, "spawn": (x, y, 90)})[1]["pose"]
    for _ in range(3):
        last = env.step(action)[4]["pose"]
    return last - first


def test_every_door_lets_the_player_through(env: MazeEnv) -> None:
    """A line that blocks by mistake would part the map though its plan is connected."""
    maze_map = MazeMap.generate(6)
    for door in maze_map.doors:
        x, y = (int(value) for value in door.centre)
        start = (x - 70, y, 0) if door.eastward else (x, y - 70, 90)
        _, info = env.reset(seed=0, options={"map_seed": 6, "spawn": start})
        assert info["room"] == door.first
        for _ in range(9):
            _, _, _, _, info = env.step([1, 0, 0])
        assert info["room"] == door.second


def test_a_wall_stops_the_player(env: MazeEnv) -> None:
    """Walls that let through would lead out of the world."""
    x, y = (int(value) for value in MazeMap.generate(6).rooms[0].centre)
    env.reset(seed=0, options={"map_seed": 6, "spawn": (x, y, 180)})
    for _ in range(20):
        _, _, _, _, info = env.step([1, 0, 0])
    assert 15.0 < info["pose"][0] < 18.0


def test_nothing_moves_while_the_player_rests(env: MazeEnv) -> None:
    """Animated textures, things or a swaying view would make exact revisits impossible."""
    env.reset(seed=1, options={"map_seed": 1})
    for _ in range(3):
        env.step([1, 0, 0])
    for _ in range(40):
        still = env.step([0, 0, 0])[0]
    for _ in range(40):
        np.testing.assert_array_equal(env.step([0, 0, 0])[0], still)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_frames_are_the_mean_of_the_screen(scale: int) -> None:
    """Guards against wrong colours, shifted blocks, or a mean of palette numbers."""
    screen = np.random.default_rng(scale).integers(0, 256, (12 * scale, 16 * scale), dtype=np.uint8)
    screen[:scale, :scale] = 3  # a block of one colour keeps it
    frame = average_frame(screen, scale)
    mean = screen_palette()[screen].reshape(12, scale, 16, scale, 3).mean(axis=(1, 3))
    assert np.abs(frame - mean).max() <= (0.6 if scale == 3 else 0.5)  # 1/9 is rounded before it multiplies
    np.testing.assert_array_equal(frame[0, 0], screen_palette()[3])
    assert frame.flags.writeable


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_frames_are_those_of_older_recordings(scale: int) -> None:
    """Guards exact replay of episodes whose frames Pillow averaged: a mean may not be rounded otherwise."""
    screen = np.random.default_rng(scale).integers(0, 256, (96 * scale, 128 * scale), dtype=np.uint8)
    colours = Image.fromarray(screen_palette()[screen])
    np.testing.assert_array_equal(average_frame(screen, scale), np.array(colours.reduce(scale)))


def test_a_screen_makes_its_frame_later(env: MazeEnv) -> None:
    """Recording averages screens on another thread while the engine goes on: it must not write into old ones."""
    frames = [env.reset(seed=2, options={"map_seed": 2})[0]]
    frames += [env.step(action)[0] for action in ACTIONS[:20]]
    screens = [env.reset_screen(seed=2, options={"map_seed": 2})[0]]
    screens += [env.step_screen(action)[0] for action in ACTIONS[:20]]
    for screen, frame in zip(screens, frames, strict=True):
        np.testing.assert_array_equal(env.frame_of(screen), frame)


@pytest.mark.parametrize("supersample", [2, 4])
def test_depth_of_a_wall_at_a_known_distance(supersample: int) -> None:
    """Co-visibility is computed from depth: its scale and its kind (along the axis) must be right."""
    plain = MazeMapSettings(rows=(1, 1), columns=(1, 1), decorations=(0, 0), room_cells=10)
    made = MazeEnv(MazeEnvSettings(depth=True, map=plain, supersample=supersample))
    for distance in (40, 100, 200, 300, 450, 600):
        _, info = made.reset(seed=0, options={"map_seed": 0, "spawn": (320, 640 - distance, 90)})
        assert info["depth"].shape == (96, 128)
        assert info["depth"].dtype == np.float32
        middle = info["depth"][48]
        assert abs(middle[64] - distance) < 6.5
        # Along the axis a wall faced squarely has one depth, up to where the side walls (90° view) begin.
        assert np.abs(middle[[0, 127]] - min(distance, 320)).max() < 12.0
    made.close()


def test_truncation_and_bad_input(env: MazeEnv) -> None:
    """A wrong call must say what is wrong, not crash the engine."""
    made = MazeEnv(MazeEnvSettings(max_steps=3, width=80, height=60, supersample=2, tics_per_step=2))
    with pytest.raises(RuntimeError, match="call reset first"):
        made.step([0, 0, 0])
    made.reset(seed=0)
    assert [made.step([1, 0, 0])[3] for _ in range(3)] == [False, False, True]
    assert made.reset(seed=0)[0].shape == (60, 80, 3)
    made.close()
    with pytest.raises(RuntimeError, match="closed"):
        made.step([0, 0, 0])
    env.reset(seed=0)
    for action in ([0, 0], [0, 3, 0], [-1, 0, 0]):
        with pytest.raises(ValueError, match="not three integers within"):
            env.step(action)
    for options in (
        {"map": 3},
        {"map_seed": -1},
        {"map_seed": 1.5},
        {"spawn": (1, 2)},
        {"spawn": (-500, 0, 0)},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            env.reset(seed=0, options=options)
    with pytest.raises(ValueError, match="no screen of 400x384"):
        MazeEnv(MazeEnvSettings(width=100))
    with pytest.raises(ValueError, match="human"):
        MazeEnv(render_mode="human")


def test_a_dead_engine_is_one_clear_error() -> None:
    """An engine that is killed must not hang the caller, nor leave its folder behind."""
    made = MazeEnv()
    made.reset(seed=0)
    folder = made._engine._slots.path.parent
    for pid in _engine_pids(made):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="engine has stopped; make a new environment"):
        made.step([0, 0, 0])
    assert not folder.exists()
    made.close()


def test_a_forked_child_leaves_the_engine_to_its_parent() -> None:
    """A child that closed or collected the game would end its parent's engine."""
    made = MazeEnv()
    made.reset(seed=0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            made.step([0, 0, 0])
        except RuntimeError as error:
            code = 0 if "belongs to process" in str(error) else 2
        made.close()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    made.step([0, 0, 0])
    assert made._engine._slots.path.exists()
    made.close()


def test_killed_owner_takes_its_engine_along(tmp_path: Path) -> None:
    """Engines used to wait for ever after kill -9 of a recorder, holding its output pipe open."""
    script = (
        "import os\nfrom envs.maze import MazeEnv\nenv = MazeEnv()\nenv.reset(seed=0)\n"
        "print(env._engine._slots.path, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    # communicate() returns only when nobody holds the pipe any more: neither the owner nor its engine.
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    folder = Path(child.communicate(timeout=30)[0].strip()).parent
    assert folder.parent == tmp_path
    instance = (folder / "started").read_text().split()[1]
    os.utime(folder / "lock", (0, 0))
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path)
    try:
        MazeEnv().close()
    finally:
        tempfile.tempdir = before
    assert list(tmp_path.iterdir()) == []
    assert list(Path("/dev/shm").glob(f"*{instance}")) == []
