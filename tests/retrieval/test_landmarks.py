"""Loop closure: corrections by brute force, and a player who comes back and finds out how far they drifted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from retrieval.landmarks import APART, GAIN, LANDMARKS, YOUNGEST, Landmarks, Trail, correction, nearest
from retrieval.motion import traced_back
from retrieval.odometer import Odometer
from retrieval.place import PlaceSettings, place_keys
from retrieval.registration import Registration
from retrieval.whereabouts import Whereabouts
from tests.retrieval.test_odometer import SETTINGS, inputs, walking


class Surveyor(Registration):
    """A registration that reads the truth out of the pictures: channel 0 and 1 hold where each was seen from."""

    def forward(self, newest, recalled, relative):
        apart = recalled[:, :2, 0, 0] - newest[:, :2, 0, 0]
        return torch.full((len(apart),), 9.0), apart


def test_corrections_are_medians_of_the_sure() -> None:
    """An unsure landmark, however far off, must not move the player; with an even number the lower middle counts."""
    rng = np.random.default_rng(0)
    told, seen = (torch.from_numpy(100 * rng.standard_normal((50, 4, 2))).float() for _ in range(2))
    sure = torch.from_numpy(rng.random((50, 4)) < 0.5)
    found = correction(told, seen, sure)
    for row in range(50):
        off = np.sort((told - seen)[row][sure[row]].numpy(), axis=0)
        expected = GAIN * off[(len(off) - 1) // 2] if len(off) else np.zeros(2)
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-4, atol=1e-4)


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


def test_a_player_who_is_carried_away_finds_out() -> None:
    """Walks 320 units, is carried back unseen and stands: actions alone say 320, what was seen before says 0."""
    model = Odometer.of(SETTINGS, walking()).eval().requires_grad_(False)
    model.mlp[-1].bias[0] = -1e9
    actions = torch.tensor([[[0, 0]] + [[1, 0]] * 40 + [[0, 0]] * 60])
    true = torch.cat((8.0 * torch.arange(41), torch.arange(304, -1, -16), torch.zeros(40)))
    latents = torch.zeros(1, len(true), 2, 4, 8)
    latents[0, :, 0] = true[:, None, None]
    blind = model.follow(latents, actions)
    assert blind.poses[0, -1].tolist() == [320.0, 0.0, 0.0]
    model.registration = Surveyor(2, 4, 8, 8, 16, 90.0)
    found = model.follow(latents, actions)
    assert float(found.poses[0, -1, :2].norm()) < 2
    assert torch.equal(found.moves, blind.moves)
    # Told back from where the player is now, the last steps are steps, not the jumps that found it out.
    back = traced_back(found.poses[:, -1], found.moves[:, -50:], found.poses[:, -50:, 2])
    torch.testing.assert_close(back[0, :, 0], found.poses[0, -1, 0].expand(50))
    assert float((found.poses[0, 1:, 0] - found.poses[0, :-1, 0]).abs().max()) > 10


def test_the_trail_leaves_out_what_is_young() -> None:
    """Frames of the recent past share the player's drift; taken as landmarks they would hide it."""
    latents, _ = inputs(2, 60)
    trail = Trail(latents)
    for time in range(60):
        pose = torch.tensor([[8.0 * time, 0.0, 0.0]]).expand(2, -1)
        found = trail.landmarks(pose)
        assert (found is None) == (time < YOUNGEST)
        if isinstance(found, Landmarks):
            assert float(found.poses[..., 0].max()) == 8.0 * (time - YOUNGEST)
            assert bool(found.present.sum(1).eq(min(LANDMARKS, 1 + (time - YOUNGEST) // (APART + 1))).all())
        trail.add(pose)


@pytest.mark.parametrize("known", [False, True])
def test_without_landmarks_players_stay_where_they_believe_to_be(known: bool) -> None:
    """A model without registration, and a world too young."""
    model = Odometer.of(replace(SETTINGS, registration_hidden=0 if known else 8), walking()).eval()
    latents, _ = inputs(1, 2)
    where = Whereabouts(pose=torch.tensor([[3.0, 4.0, 5.0]]), move=torch.zeros(1, 2))
    some = Landmarks(latents=latents, poses=torch.zeros(1, 2, 3), present=torch.ones(1, 2, dtype=torch.bool))
    assert model.recognised(where, latents[:, 0], some if known else None) is where
