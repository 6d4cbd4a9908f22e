"""Loop closure: corrections by brute force, and a player who comes back and finds out how far they drifted."""

import numpy as np
import pytest
import torch

from retrieval.landmarks import (
    APART,
    FARFETCHED,
    LANDMARKS,
    YOUNGEST,
    Landmarks,
    Trail,
    nearest,
    recognition,
)
from retrieval.motion import traced_back
from retrieval.odometer import Odometer
from retrieval.offset import Offset
from retrieval.place import PlaceSettings, place_keys
from retrieval.whereabouts import Whereabouts
from tests.retrieval.test_odometer import SETTINGS, inputs, walking


class Surveyor(Odometer):
    """An odometer that reads the truth out of the pictures: channel 0 holds x, channel 1 whether one looks back."""

    def register(self, newest, recalled, relative):
        apart = (recalled - newest)[:, 0, 0, 0] * (1 - 2 * newest[:, 1, 0, 0])
        offset = torch.stack((apart, torch.zeros_like(apart)), 1)
        return Offset(torch.full_like(apart, 9.0), offset, torch.zeros_like(apart))


def test_recognition_is_a_kalman_filter() -> None:
    """Landmark after landmark against the textbook's update; what is not sure, or far-fetched, moves nobody."""
    rng = np.random.default_rng(0)
    off, noise = 20 * rng.standard_normal((80, 4, 2)), 200 * rng.random((80, 4))
    off[:10, 2] += 3000
    ever = 400 * rng.random(80)
    left, doubts = ever * rng.random(80), ever[:, None] * rng.random((80, 4))
    sure = rng.random((80, 4)) < 0.7
    given = [torch.from_numpy(each).float() for each in (off, noise, doubts, np.stack((left, ever), 1))]
    shift, doubt = recognition(*given, torch.from_numpy(sure))
    for row in range(80):
        place, variance = np.zeros(2), left[row]
        for i in np.flatnonzero(sure[row]):
            prior = min(variance, ever[row] - doubts[row, i])
            surprise = off[row, i] - place
            if surprise @ surprise > 2 * FARFETCHED * (prior + noise[row, i]):
                continue
            place = place + prior / (prior + noise[row, i]) * surprise
            variance = variance - prior**2 / (prior + noise[row, i])
        np.testing.assert_allclose(shift[row].numpy(), place, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(doubt[row].numpy(), [variance, ever[row]], rtol=1e-3, atol=1e-3)
        assert 0 <= float(doubt[row, 0]) <= left[row] + 1e-3


def test_who_has_not_moved_is_not_moved() -> None:
    """Views drawn a little wrong must not push a player about who stands and looks around."""
    nothing = torch.zeros(3, 2)
    far = torch.full((3, 4, 2), 30.0)
    sure = torch.ones(3, 4, dtype=torch.bool)
    shift, doubt = recognition(far, far[..., 0], torch.zeros(3, 4), nothing, sure)
    assert not shift.any()
    assert not doubt.any()
    # Nor is one who has not moved since the landmark was new, whatever lies before that.
    walked = torch.full((3, 2), 500.0)
    shift, _ = recognition(far, far[..., 0], torch.full((3, 4), 500.0), walked, sure)
    assert not shift.any()


def test_nearest_are_the_best_of_what_is_allowed() -> None:
    """By place and heading, some frames apart; what is forbidden is never taken, however near."""
    generator = torch.Generator().manual_seed(0)
    poses = torch.tensor([400.0, 400.0, 360.0]) * torch.rand(3, 80, 3, generator=generator)
    places = place_keys(poses.flatten(0, 1), PlaceSettings()).unflatten(0, (3, 80))
    allowed = torch.rand(3, 80, generator=generator) < 0.7
    frames, found = nearest(places, poses[:, 7], allowed)
    assert frames.shape == (3, LANDMARKS)
    assert bool(found.all())
    for row in range(3):
        at, cost = poses[row].double().numpy(), np.zeros(80)
        heading = np.deg2rad(at[:, 2])
        focus = at[:, :2] + 96 * np.stack((np.cos(heading), np.sin(heading)), 1)
        for points, width in ((focus, 90), (at[:, :2], 160)):
            cost += ((points - points[7]) ** 2).sum(1) / width**2
        cost += (np.rad2deg(2 * np.sin((heading - heading[7]) / 2)) / 40) ** 2
        taken: list[int] = []
        for frame in np.argsort(np.where(allowed[row].numpy(), cost, np.inf)):
            if all(abs(int(frame) - other) > APART for other in taken):
                taken.append(int(frame))
        assert frames[row].tolist() == taken[:LANDMARKS]


def test_a_player_who_is_held_back_finds_out() -> None:
    """Walks away, turns, and comes back a little slower than they know: actions alone pass the start by 45 units."""
    model = Odometer.of(SETTINGS, walking()).eval().requires_grad_(False)
    model.step.mlp[-1].bias[0] = model.registration.mlp[-1].bias[0] = -1e9
    actions = torch.tensor([[[0, 0], *[[1, 0]] * 40, *[[0, 1]] * 18, *[[1, 0]] * 45]])
    there = torch.cat((8.0 * torch.arange(41), torch.full((18,), 320.0)))
    true = torch.cat((there, 320 - 7.0 * torch.arange(1, 46)))
    latents = torch.zeros(1, len(true), 2, 4, 8)
    latents[0, :, 0], latents[0, 59:, 1] = true[:, None, None], 1.0
    blind = model.follow(latents, actions)
    assert float(blind.poses[0, -1, 0]) == pytest.approx(-40, abs=0.1)
    model = Surveyor.of(SETTINGS, walking()).eval().requires_grad_(False)
    model.step.mlp[-1].bias[0] = -1e9
    found = model.follow(latents, actions)
    assert float(found.poses[0, -1, 0]) == pytest.approx(5, abs=15)
    assert torch.equal(found.moves, blind.moves)
    # Told back from where the player is now, the last steps are steps, not the jumps that found it out.
    recent = traced_back(found.poses[:, -1], found.moves[:, -20:], found.poses[:, -20:, 2])
    steps = recent[0, 1:, :2] - recent[0, :-1, :2]
    torch.testing.assert_close(steps, found.moves[0, -19:], rtol=1e-4, atol=1e-3)


def test_the_trail_leaves_out_what_is_young() -> None:
    """Frames of the recent past share the player's drift; taken as landmarks they would hide it."""
    latents, _ = inputs(2, 60)
    trail = Trail(latents, torch.zeros(2, 60, 0, 8))
    for time in range(60):
        pose = torch.tensor([[8.0 * time, 0.0, 0.0]]).expand(2, -1)
        found = trail.landmarks(pose)
        assert (found is None) == (time < YOUNGEST)
        if isinstance(found, Landmarks):
            assert float(found.poses[..., 0].max()) == 8.0 * (time - YOUNGEST)
            assert torch.equal(found.doubts, found.poses[..., 0] / 8)
            assert bool(found.present.sum(1).eq(min(LANDMARKS, 1 + (time - YOUNGEST) // (APART + 1))).all())
        still = torch.zeros(2, 2)
        trail.add(Whereabouts(pose=pose, move=still, bump=still, doubt=torch.full((2, 2), float(time))))


def test_without_landmarks_players_stay_where_they_believe_to_be() -> None:
    """A world too young."""
    model = Odometer.of(SETTINGS, walking()).eval()
    where = Whereabouts.origin(1).shifted(torch.tensor([[3.0, 4.0]]))
    same, seen = model.recognised(where, inputs(1, 2)[0][:, 0], None)
    assert same is where
    assert bool(seen.variances.isinf().all())
