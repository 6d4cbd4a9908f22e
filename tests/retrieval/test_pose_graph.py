"""The pose graph: the same places as a solver of the whole problem finds, and what it may not touch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

import retrieval.pose_graph as pose_graph
from retrieval.pose_graph import BLUR, HALF_BELIEVED, settled
from retrieval.whereabouts import LANDMARKS, Followed


def wandering(time: int, seed: int = 0, batch: int = 1) -> tuple[Followed, torch.Tensor]:
    """Players who go round in circles with steps estimated a little wrong, recognise old frames; and their true places."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    angle = torch.arange(time) * 0.11
    true = 150 * torch.stack((angle.cos(), angle.sin()), -1).expand(batch, -1, -1) + 2 * normal(
        batch, time, 2
    )
    moves = torch.zeros_like(true)
    moves[:, 1:] = true[:, 1:] - true[:, :-1] + normal(batch, time - 1, 2)
    poses = torch.cat((true[:, :1] + moves.cumsum(1), 30 * normal(batch, time, 1)), -1)
    followed = Followed.of_poses(poses)
    sighted = (torch.rand(batch, time, LANDMARKS, generator=generator) * torch.arange(time)[:, None]).long()
    rows = torch.arange(batch)[:, None, None]
    offsets = true[rows, sighted] - true[:, :, None] + 0.5 * normal(batch, time, LANDMARKS, 2)
    variances = torch.full(sighted.shape, 0.5)
    variances[torch.rand(sighted.shape, generator=generator) < 0.8] = torch.inf
    doubts = torch.arange(time).float()[:, None].expand(batch, -1, 2)
    return (
        replace(followed, sighted=sighted, offsets=offsets, variances=variances, doubts=doubts, moves=moves),
        true,
    )


def test_places_are_those_of_a_general_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """scipy's least squares of the same problem with Cauchy weights, solved all at once from the same beginning."""
    monkeypatch.setattr(pose_graph, "ROUNDS", 200)
    followed, _ = wandering(40)
    followed.offsets[0, 30, 0], followed.variances[0, 30, 0] = 80.0, 0.5  # a frame taken for another
    seen = torch.isfinite(followed.variances[0])
    frame, slot = (each.numpy() for each in seen.nonzero(as_tuple=True))
    other = followed.sighted[0].numpy()[frame, slot]
    offsets, moves = followed.offsets[0].double().numpy()[frame, slot], followed.moves[0].double().numpy()
    noise = followed.variances[0].numpy()[frame, slot] + BLUR
    start = followed.poses[0, :, :2].double().numpy()

    def misfits(flat: np.ndarray) -> np.ndarray:
        places = np.concatenate((start[:1], flat.reshape(-1, 2)))
        steps = places[1:] - places[:-1] - moves[1:]
        off = np.linalg.norm(places[other] - places[frame] - offsets, axis=1)
        # Σ log(1 + r²/k) as squares: what weights 1 / (1 + r²/k) minimise.
        robust = np.sqrt(HALF_BELIEVED * np.log1p(off**2 / (HALF_BELIEVED * noise)))
        return np.concatenate((steps.ravel(), robust))

    best = least_squares(misfits, start[1:].ravel(), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    first, poses = settled(followed)
    assert first == 1
    np.testing.assert_allclose(poses[0, :, :2].numpy(), best.x.reshape(-1, 2), atol=2e-2)
    assert torch.equal(poses[..., 2], followed.poses[:, 1:, 2])


def test_what_was_seen_mends_what_lies_between() -> None:
    """Also frames in which nothing was recognised lie nearer to the truth, of every player of a batch."""
    followed, true = wandering(300, batch=3)
    before = (followed.poses[..., :2] - true).norm(dim=-1)[:, 1:].mean(1)
    after = (settled(followed)[1][..., :2] - true[:, 1:]).norm(dim=-1).mean(1)
    assert bool((after < 0.4 * before).all())
    for row in range(3):
        alone = settled(followed.part(row, 300))[1]
        torch.testing.assert_close(alone[0], settled(followed)[1][row], atol=1e-3, rtol=0)


def test_nothing_recognised_moves_nobody() -> None:
    followed, _ = wandering(50)
    followed = replace(followed, variances=torch.full_like(followed.variances, torch.inf))
    torch.testing.assert_close(settled(followed)[1], followed.poses[:, 1:], atol=1e-3, rtol=0)


def test_old_places_stay_and_later_ones_move_along() -> None:
    """A world that is older than the window costs no more, and steps at its border stay steps."""
    followed, true = wandering(120)
    first, poses = settled(followed, since=100, window=40)
    assert first == 61
    assert poses.shape == (1, 59, 3)
    mended = torch.cat((followed.poses[:, :first], poses), 1)
    steps = mended[0, 1:, :2] - mended[0, :-1, :2] - followed.moves[0, 1:]
    assert float(steps.norm(dim=1).max()) < 12  # a jump of all that has drifted would be 30
    # Seen all at once for the first time, a long past is settled window by window.
    first, poses = settled(followed, window=40)
    assert first == 1
    before = (followed.poses[0, 1:, :2] - true[0, 1:]).norm(dim=1)
    after = (poses[0, :, :2] - true[0, 1:]).norm(dim=1)
    assert float(after.mean()) < 0.6 * float(before.mean())


def test_young_worlds_settle() -> None:
    """One frame: there is nothing to move."""
    first, poses = settled(wandering(1)[0])
    assert (first, poses.shape) == (1, (1, 0, 3))
