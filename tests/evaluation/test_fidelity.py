"""The judge of actions on moves that are known, and feature distances against scipy."""

import numpy as np
import pytest
import scipy.linalg
import torch

from envs.maze import MazeEnv
from retrieval.motion import fit_motion
from worldsim.evaluation.features import frechet_distance, latent_features
from worldsim.evaluation.inverse_dynamics import (
    InverseDynamicsTraining,
    as_told,
    fit_inverse_dynamics,
    judged_moves,
    told_moves,
    true_moves,
)


def walk(seed: int, steps: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Frames, poses and actions of a player who turns and walks at random."""
    env = MazeEnv()
    frame, info = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    frames, poses, actions = [frame], [info["pose"]], [np.zeros(3, np.int64)]
    held = rng.integers(0, 3, 3)
    for step in range(steps - 1):
        if step % 5 == 0:
            held = np.where(rng.random(3) < 0.6, rng.integers(0, 3, 3), held)
        frame, _, _, _, info = env.step(held)
        frames.append(frame)
        poses.append(info["pose"])
        actions.append(held)
    env.close()
    return torch.from_numpy(np.stack(frames)), np.stack(poses), np.stack(actions)


def test_the_judge_learns_turns_from_frames() -> None:
    """What it says of frames that it has seen must follow what was done, not be a mean."""
    frames, poses, _ = walk(0, 200)
    judge = fit_inverse_dynamics(
        [(frames, poses)], torch.device("cpu"), InverseDynamicsTraining(steps=150, batch=32), seed=0
    )
    judged, true = judged_moves(judge, frames), true_moves(poses)
    assert judged.shape == (199, 3)
    assert float(np.corrcoef(judged[:, 0], true[:, 0])[0, 1]) > 0.8
    soft = torch.nn.functional.avg_pool2d(frames.permute(0, 3, 1, 2).float(), 9, 1, 4).permute(0, 2, 3, 1)
    judged = judged_moves(judge, (0.5 * soft + 60).byte())
    assert float(np.corrcoef(judged[:, 0], true[:, 0])[0, 1]) > 0.7


def test_told_moves_are_the_true_ones_where_nothing_stands_in_the_way() -> None:
    """Tables of moves against the engine: what is told must be what the player does, in the player's own directions."""
    _, poses, actions = walk(1, 300)
    motion, _, share = fit_motion(
        torch.from_numpy(actions)[None], torch.from_numpy(poses)[None], torch.tensor([300]), (3, 3, 3)
    )
    told, true = told_moves(motion, torch.from_numpy(actions))[1:], true_moves(poses)
    turned, moved = as_told(true, told)
    assert float(turned.float().mean()) > 0.98
    assert float(moved.float().mean()) > share - 0.15
    back = true.clone()
    back[:, 1:] *= -1
    walks = told[:, 1:].norm(dim=1) > 5
    assert float(as_told(back, told)[1][walks].float().mean()) < 0.2
    assert not as_told(true + torch.tensor([9.0, 0, 0]), told)[0][told[:, 0] == 0].any()


def test_moves_as_told_by_hand() -> None:
    told = torch.tensor([[14.0, 8.0, 0.0], [0.0, 0.0, 0.0], [-7.0, 0.0, -6.0], [0.0, 8.0, 0.0]])
    judged = torch.tensor([[9.0, 4.0, 2.0], [3.0, 1.0, 3.0], [2.0, 0.0, -1.0], [-6.0, -5.0, 0.0]])
    turned, moved = as_told(judged, told)
    assert turned.tolist() == [True, True, False, False]
    assert moved.tolist() == [True, True, False, False]


def test_frechet_distance_equals_scipy() -> None:
    """FID's formula with scipy's root of the product."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=generator)
    a = torch.randn(80, 6, generator=generator) @ mix
    b = torch.randn(50, 6, generator=generator) + 0.5
    covariances = [np.cov(each.double().numpy().T) for each in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    means = float((a.double().mean(0) - b.double().mean(0)).square().sum())
    expected = means + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="1 and 50 frames have no covariance"):
        frechet_distance(a[:1], b)


def test_features_tell_a_flat_frame_from_a_busy_one() -> None:
    latents = torch.randn(5, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    features = latent_features(latents)
    assert features.shape == (5, 3 * 4 + 3)
    torch.testing.assert_close(features[:, 0], latents[:, 0, :6, :8].mean((1, 2)))
    torch.testing.assert_close(features[:, 12], latents[:, 0].flatten(1).std(1, correction=0))
