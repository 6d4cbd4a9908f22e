"""Dead reckoning from tables, and the fit that finds them again in recorded poses."""

import math

import numpy as np
import pytest
import torch

from retrieval.motion import Motion, fit_motion, joint_rows, turned


def a_motion() -> Motion:
    """Factor 0 walks, factor 1 turns: slowly at first, faster when held; an action sideways in factor 2."""
    turns = []
    for row in range(27):
        before, now = row // 3 % 3, row % 3
        turns.append((0.0, 1.0, -1.0)[now] * (14.0 if before == now else 7.0))
    push = [((0.0, 6.0, -5.0)[row // 9], (0.0, 4.0, -4.0)[row % 3]) for row in range(27)]
    after = [(forward / 2, left / 3) for forward, left in push]
    return Motion(
        sizes=(3, 3, 3),
        turn_factor=1,
        turns_deg=tuple(turns),
        carry=0.6,
        thrust=tuple(push),
        after=tuple(after),
    )


def walk(motion: Motion, actions: np.ndarray, start: tuple[float, float, float]) -> np.ndarray:
    """Step by step, in plain numbers: poses (x, y, z, yaw_deg) of every frame."""
    x, y, yaw = start
    poses, move, push_before = [(x, y, 0.0, yaw % 360)], np.zeros(2), np.zeros(2)
    for t in range(1, len(actions)):
        now = int(actions[t, 1])
        before = [int(actions[t - back, 1]) if t >= back else 0 for back in (2, 1)]
        turn = motion.turns_deg[before[0] * 9 + before[1] * 3 + now]
        row = int(actions[t] @ (9, 3, 1))

        def along(push: tuple[float, float], heading: float) -> np.ndarray:
            angle = math.radians(heading)
            forward, left = push
            return np.array(
                (
                    forward * math.cos(angle) - left * math.sin(angle),
                    forward * math.sin(angle) + left * math.cos(angle),
                )
            )

        move = motion.carry * move + along(motion.thrust[row], yaw + turn / 2) + push_before
        push_before = along(motion.after[row], yaw + turn / 2)
        x, y, yaw = x + move[0], y + move[1], yaw + turn
        poses.append((x, y, 0.0, yaw % 360))
    return np.array(poses)


def walks(count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 3, (count, length, 3))
    actions[:, 0] = 0
    starts = rng.uniform(0, 360, (count, 3))
    poses = np.stack([walk(a_motion(), a, tuple(s)) for a, s in zip(actions, starts, strict=True)])
    return torch.from_numpy(actions), torch.from_numpy(poses).float()


def test_tables_follow_a_walk_step_by_step() -> None:
    """A window off by one, or a push along the wrong heading, leads elsewhere."""
    actions, poses = walks(3, 40)
    motion = a_motion()
    headings = poses[:, :1, 3] + motion.turns(actions).cumsum(1)
    error_deg = (headings - poses[..., 3] + 180) % 360 - 180
    assert float(error_deg.abs().max()) < 1e-3
    free = motion.free_moves(actions, headings)
    moves = poses[:, 1:, :2] - poses[:, :-1, :2]
    told = motion.carry * moves[:, :-1] + free[:, 2:]
    torch.testing.assert_close(told, moves[:, 1:], atol=1e-3, rtol=0)


def test_the_fit_finds_the_tables_again_behind_collisions() -> None:
    """A tenth of all steps are stopped by walls: least squares over all of them would shorten every push."""
    actions, poses = walks(8, 700)
    rng = np.random.default_rng(1)
    stops = torch.from_numpy(rng.random(poses.shape[:2]) < 0.1)
    moves = torch.zeros_like(poses[..., :2])
    motion, headings = a_motion(), poses[..., 3]
    free = motion.free_moves(actions, headings)
    for t in range(1, poses.shape[1]):
        move = motion.carry * moves[:, t - 1] + free[:, t]
        moves[:, t] = torch.where(stops[:, t, None], move * 0.2, move)
    poses = torch.cat((moves.cumsum(1), poses[..., 2:]), -1)
    found, error_deg, free_share = fit_motion(actions, poses, torch.full((8,), 700), (3, 3, 3))
    assert found.turn_factor == 1
    assert error_deg < 1e-2
    np.testing.assert_allclose(found.turns_deg, motion.turns_deg, atol=1e-2)
    assert found.carry == pytest.approx(motion.carry, abs=0.01)
    np.testing.assert_allclose(found.thrust, motion.thrust, atol=0.15)
    np.testing.assert_allclose(found.after, motion.after, atol=0.15)
    assert free_share == pytest.approx(0.9, abs=0.04)


def test_only_real_frames_with_poses_are_fitted() -> None:
    """Padding looks like standing still, unknown poses like nothing at all."""
    actions, poses = walks(4, 300)
    padded, holes = poses.clone(), torch.full((4,), 300)
    padded[0, 150:], holes[0] = 7.0, 150
    padded[1, 40:60] = torch.nan
    found, error_deg, _ = fit_motion(actions, padded, holes, (3, 3, 3))
    assert error_deg < 1e-2
    np.testing.assert_allclose(found.thrust, a_motion().thrust, atol=0.05)
    with pytest.raises(ValueError, match=r"0 recorded steps have poses, motion needs 100 or more"):
        fit_motion(actions, poses * torch.nan, holes, (3, 3, 3))


def test_tables_must_fit_the_actions() -> None:
    """Tables of another game would be read beyond their ends."""
    with pytest.raises(ValueError, match=r"motion tables of 27, 1, 27 rows do not fit actions \(3, 3, 3\)"):
        Motion(**{**vars(a_motion()), "thrust": ((0.0, 0.0),)})
    still = Motion.still((2, 4))
    assert not still.turns(torch.ones(1, 5, 2, dtype=torch.int64)).any()


def test_joint_rows_and_turned_by_hand() -> None:
    """Mixed radix, and counter-clockwise."""
    assert joint_rows(torch.tensor([[2, 0, 1], [0, 1, 2]]), (3, 2, 3)).tolist() == [13, 5]
    north = turned(torch.tensor([[1.0, 2.0]]), torch.tensor([90.0]))
    torch.testing.assert_close(north, torch.tensor([[-2.0, 1.0]]), atol=1e-6, rtol=0)
