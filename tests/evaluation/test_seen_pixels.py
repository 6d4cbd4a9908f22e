"""Pixels seen before, against what geometry says and what the engine shows."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from envs.explorer import Explorer
from envs.maze import MazeEnv, MazeEnvSettings
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.replayed_depth import replayed_depths
from worldsim.evaluation.seen_pixels import masked_psnr, seen_before
from worldsim.record import RecordSettings, record


@pytest.fixture(scope="module")
def env() -> Iterator[MazeEnv]:
    env = MazeEnv(MazeEnvSettings(depth=True))
    yield env
    env.close()


def look(
    env: MazeEnv, map_seed: int, x: float, y: float, yaw_deg: int
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    spawn = int(x), int(y), yaw_deg
    frame, info = env.reset(seed=0, options={"map_seed": map_seed, "spawn": spawn})
    return torch.from_numpy(info["depth"]), torch.from_numpy(info["pose"]), frame


@pytest.mark.parametrize("turn_deg", [0, 30, 45, 60, 90, 180, 330])
def test_turning_on_the_spot_shows_the_columns_that_geometry_says(env: MazeEnv, turn_deg: int) -> None:
    """A column at angle a to the right was seen if a + the turn to the left lies within the 90° as well."""
    env.reset(seed=0, options={"map_seed": 5})
    assert env.maze_map is not None
    x, y = env.maze_map.rooms[4].centre
    before, pose, _ = look(env, 5, x, y, 20)
    now, turned, _ = look(env, 5, x, y, (20 + turn_deg) % 360)
    seen = seen_before(now, turned, before[None], pose[None])
    columns = torch.arange(128)
    right_deg = torch.rad2deg(torch.atan((columns + 0.5) / 64 - 1))
    old_deg = (right_deg - turn_deg + 180) % 360 - 180
    expected = old_deg.abs() < 45
    clear = (old_deg.abs() - 45).abs() > 2  # not at the very edge
    # Rows near the picture's edge leave it where the point lies farther to the side.
    middle = seen[36:60].float().mean(0)
    assert (middle[expected & clear] > 0.9).float().mean() > 0.9 if expected.any() else True
    assert (middle[~expected & clear] == 0).all()


def test_walls_hide_what_lies_behind(env: MazeEnv) -> None:
    """Looking the same way from the next room without a door between, nothing of this room was seen."""
    env.reset(seed=0, options={"map_seed": 5})
    maze_map = env.maze_map
    assert maze_map is not None
    first, second = next(
        (room, other)
        for room in maze_map.rooms
        for other in maze_map.rooms
        if other.row == room.row
        and other.column == room.column + 1
        and other.index not in maze_map.neighbours[room.index]
    )
    now, pose, _ = look(env, 5, *second.centre, 0)
    before, behind, _ = look(env, 5, first.centre[0], first.centre[1], 0)
    seen = seen_before(now, pose, before[None], behind[None])
    assert float(seen.float().mean()) < 0.02


def test_a_walk_has_seen_what_it_walks_towards_in_the_same_colours(env: MazeEnv) -> None:
    """Each frame of an explorer's walk against all before: pixels called unseen are those that come into view."""
    _, info = env.reset(seed=3, options={"map_seed": 3})
    assert env.maze_map is not None
    player = Explorer(env.maze_map, 3)
    depths, poses, frames = [], [], []
    for _ in range(80):
        frame, _, _, _, info = env.step(player.act(info["pose"]))
        depths.append(torch.from_numpy(info["depth"]))
        poses.append(torch.from_numpy(info["pose"]))
        frames.append(frame)
    whole, place = torch.stack(depths), torch.stack(poses)
    shares = [
        float(seen_before(whole[t], place[t], whole[:t], place[:t]).float().mean()) for t in range(1, 80)
    ]
    assert np.mean(shares) > 0.8
    assert min(shares) < 0.6
    # Frames apart, the same answer as all at once.
    apart = torch.stack(
        [seen_before(whole[60], place[60], whole[t : t + 1], place[t : t + 1]) for t in range(60)]
    )
    assert torch.equal(apart.any(0), seen_before(whole[60], place[60], whole[:60], place[:60]))


def test_psnr_of_some_pixels() -> None:
    """Errors outside of the mask do not count; a few pixels tell nothing."""
    truth = torch.zeros(2, 10, 10, 3, dtype=torch.uint8)
    made = truth.clone()
    made[:, :5] = 51
    made[:, 5:] = 255
    mask = torch.zeros(2, 10, 10, dtype=torch.bool)
    mask[0, :5] = True
    mask[1, 0, :4] = True
    first, second = masked_psnr(made, truth, mask)
    assert first == pytest.approx(20 * np.log10(255 / 51), abs=1e-3)
    assert second is None


def test_depth_comes_from_an_exact_replay(tmp_path: Path) -> None:
    """As the engine tells it; an episode that does not replay is refused by name."""
    record(RecordSettings(out=tmp_path, episodes=2, workers=1, steps=20))
    held_out = HeldOut(tmp_path)
    depths = replayed_depths(held_out, {1: 12, 0: 5})
    assert {index: len(each) for index, each in depths.items()} == {1: 12, 0: 5}
    engine = MazeEnv(MazeEnvSettings(depth=True))
    _, info = engine.reset(seed=1, options={"map_seed": 1})
    for step in range(1, 12):
        *_, info = engine.step(held_out.actions[1][step])
    engine.close()
    # Kept in half precision: the engine counts in steps of about 7 units.
    np.testing.assert_allclose(depths[1][11].numpy(), info["depth"], rtol=1e-3)
    with h5py.File(held_out.paths[1], "r+") as file:
        file["actions"][4] = (file["actions"][4] + 1) % 3
    with pytest.raises((ValueError, OSError), match=r"episode_000001\.h5 does not replay: frame"):
        replayed_depths(HeldOut(tmp_path), {1: 12})
