"""The odometer's training: which steps count as changed, and that it learns to see what changed them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retrieval.foresight import WITNESSES, Surroundings
from retrieval.motion import Motion
from retrieval.odometer import ACTIONS, Odometer, Whereabouts
from worldsim.presets import tiny
from worldsim.training.data import LatentEpisodes
from worldsim.training.floor_plans import FloorPlans
from worldsim.training.odometer import (
    Moves,
    OdometerTraining,
    draw_pairs,
    odometer_loss,
)
from worldsim.training.registration import draw_views, registration_loss
from worldsim.training.witnesses import blocked_loss, draw_witnesses


def walking() -> Motion:
    """Every action walks 10 units forward; factor 1 turns by 10 degrees."""
    turns = tuple((0.0, 10.0, -10.0)[row % 3] for row in range(27))
    push = ((10.0, 0.0),) * 27
    return Motion(
        sizes=(3, 3, 3), turn_factor=1, turns_deg=turns, carry=0.0, thrust=push, after=((0.0, 0.0),) * 27
    )


def walled(episodes: LatentEpisodes, share: float = 0.2) -> tuple[LatentEpisodes, torch.Tensor]:
    """A wall, seen as a bright frame, halves the next step; and where walls are, `(episode, time)`."""
    generator = torch.Generator().manual_seed(4)
    count, time = episodes.actions.shape[:2]
    wall = torch.rand(count, time, generator=generator) < share
    latents = 0.3 * torch.randn(episodes.latents.shape, generator=generator)
    latents[wall] += 1.5
    blocked = torch.zeros(count, time, dtype=torch.bool)
    blocked[:, 1:] = wall[:, :-1]
    headings = walking().turns(episodes.actions.long()).cumsum(1)
    moves = walking().free_moves(episodes.actions.long(), headings)
    moves[blocked] *= 0.5
    moves[:, 0] = 0
    poses = torch.cat((moves.cumsum(1), torch.zeros(count, time, 1), headings[..., None] % 360), -1)
    return replace(episodes, latents=latents.half(), poses=poses), blocked


def settings(**changes: object) -> OdometerTraining:
    plain = OdometerTraining(
        data=Path("unused"), out=Path("unused"), preset="tiny", batch=64, noise=0.1, move_noise=0.0
    )
    return replace(plain, **changes)


def test_changed_steps_are_those_that_walls_stopped(episodes_of) -> None:
    """A step counted wrongly teaches that free steps are stopped; padding is none at all."""
    episodes, blocked = walled(episodes_of(count=3, length=60))
    episodes = replace(episodes, lengths=torch.tensor([60, 60, 31]))
    moves = Moves.of(episodes, walking())
    real = torch.arange(60) < episodes.lengths[:, None]
    expected = blocked & real
    assert moves.changed.tolist() == expected.nonzero().tolist()
    assert moves.share == pytest.approx(float(expected.sum()) / (59 + 59 + 30))
    # Half of each such step is missing, and nothing of the others.
    torch.testing.assert_close(moves.bumps[expected], -moves.moves[expected], atol=1e-3, rtol=1e-3)
    assert float(moves.bumps[~expected].abs().max()) < 1e-2
    episode, time = draw_pairs(episodes, moves, 400, torch.Generator().manual_seed(0))
    assert bool((time >= 1).all())
    assert bool((time < episodes.lengths[episode]).all())
    share = float(expected[episode, time].float().mean())
    assert share == pytest.approx(0.5 + 0.5 * moves.share, abs=0.06)


def test_it_learns_to_see_walls(episodes_of) -> None:
    """After a short training the walk along the estimated moves ends near the true one; by actions alone it does not."""
    episodes, _ = walled(episodes_of(count=4, length=120))
    moves = Moves.of(episodes, walking())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Odometer.of(tiny().odometer, walking())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(150):
        loss, found = odometer_loss(model, episodes, moves, settings(), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    assert float(found["error_seen"]) < 1.5
    actions = torch.nn.functional.pad(episodes.actions.long(), (0, 0, ACTIONS - 1, 0))
    model.eval()
    followed, _ = model.track(Whereabouts.origin(4), episodes.latents.float(), actions)
    true = episodes.poses[:, 1:, :2] - episodes.poses[:, :1, :2]  # every walk begins with heading 0
    apart = (followed.poses[..., :2] - true).norm(dim=-1)
    assert float(apart[:, -1].mean()) < 15
    assert float((followed.expected[..., :2] - true).norm(dim=-1).mean()) < 15
    blind = walking().free_moves(episodes.actions.long(), walking().turns(episodes.actions.long()).cumsum(1))
    assert float((blind[:, 1:].cumsum(1)[:, -1] - true[:, -1]).norm(dim=-1).mean()) > 40


def test_bad_settings_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"seen_share 1.5 is not within 0..1"):
        settings(seen_share=1.5)


def test_views_of_one_place_are_drawn(episodes_of) -> None:
    """Pairs that show nothing in common teach nothing, and neighbours in time are never recalled."""
    generator = torch.Generator().manual_seed(3)
    poses = torch.zeros(3, 60, 4)
    poses[..., :2] = 600 * torch.rand(3, 60, 2, generator=generator)
    poses[..., 3] = 360 * torch.rand(3, 60, generator=generator)
    episodes = replace(episodes_of(count=3, length=60), poses=poses, lengths=torch.tensor([60, 60, 45]))
    episode, time, other = draw_views(episodes, 600, generator)
    assert bool((torch.maximum(time, other) < episodes.lengths[episode]).all())
    assert int((other - time).abs().min()) >= 20
    apart = (poses[episode, time, :2] - poses[episode, other, :2]).norm(dim=1)
    turn = ((poses[episode, time, 3] - poses[episode, other, 3] + 180) % 360 - 180).abs()
    assert float(apart.median()) < 150  # 310 between random places
    assert float(turn.median()) < 50  # 90 between random headings
    assert len(torch.unique(torch.stack((episode, time, other)), dim=1).T) > 150


def test_registration_learns_offsets_that_views_show(episodes_of) -> None:
    """Frames that show their own place: told offsets that are off by a hundred units must be mended by looking."""
    generator = torch.Generator().manual_seed(3)
    episodes = episodes_of(count=4, length=60)
    poses = torch.zeros(4, 60, 4)
    poses[..., :2] = 120 * torch.rand(4, 60, 2, generator=generator)
    latents = torch.zeros(4, 60, 4, 12, 16)
    latents[:, :, 0], latents[:, :, 1] = (poses[..., i, None, None] / 100 - 1 for i in (0, 1))
    episodes = replace(episodes, latents=latents.half(), poses=poses)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Odometer.of(tiny().odometer, walking())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    errors: list[dict[str, torch.Tensor]] = []
    for step in range(400):
        loss, found = registration_loss(model, episodes, 64, 0.1, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(found)
    first, last = (
        {name: float(sum(each[name] for each in part) / len(part)) for name in part[0]}
        for part in (errors[:10], errors[-10:])
    )
    assert first["error_registered"] == pytest.approx(first["error_told"], rel=0.1)
    assert last["error_registered"] < 0.5 * last["error_told"]


class Numbered(Odometer):
    """Tells frames apart by a number that their latents carry."""

    def scans(self, latents):
        return latents[:, :1, 0]


def test_witnesses_are_earlier_frames_that_saw_the_place(episodes_of) -> None:
    """A frame that is not yet there would tell what play cannot know; young ones are where they are, old ones nearly."""
    generator = torch.Generator().manual_seed(3)
    poses = torch.zeros(3, 90, 4)
    poses[..., :2] = 300 * torch.rand(3, 90, 2, generator=generator)
    headings = 360 * torch.rand(3, 90, generator=generator)
    latents = torch.zeros(3, 90, 4, 12, 16)
    latents[:, :, 0] = torch.arange(90)[:, None, None]
    episodes = replace(episodes_of(count=3, length=90), poses=poses, latents=latents.half())
    episode, time = (
        torch.randint(3, (200,), generator=generator),
        torch.randint(1, 90, (200,), generator=generator),
    )
    place = 300 * torch.rand(200, 2, generator=generator)
    odometer = Numbered.of(tiny().odometer, walking())
    drawn = draw_witnesses(odometer, episodes, headings, episode, time, place, 0.0, generator)
    frames = drawn.scans[:, :, 0, 0].round().long()
    assert bool((frames < time[:, None])[drawn.present].all())
    assert 2 < float(drawn.present.sum(1).float().mean()) < WITNESSES
    true = torch.cat((poses[..., :2], headings[..., None]), -1)[episode[:, None], frames]
    off = (drawn.poses - true)[drawn.present]
    ages = (time[:, None] - frames)[drawn.present]
    assert not off[:, 2].any()
    far = off[:, :2].norm(dim=1)
    assert float(far[ages > 50].mean()) > 5 * float(far[ages < 5].mean())
    assert 1 < float(far[ages > 50].mean()) < 5
    angle = torch.deg2rad(true[..., 2])
    away = place[:, None] - true[..., :2]
    ahead = away[..., 0] * angle.cos() + away[..., 1] * angle.sin()
    assert bool((ahead > 0.7 * away.norm(dim=-1))[drawn.present].all())


def test_foresight_learns_from_steps_that_are_not_seen(episodes_of) -> None:
    """What the next frame shows needs no foresight: taught by it, foresight would be told of what it is not there for."""
    episodes, _ = walled(episodes_of(count=3, length=60))
    moves = Moves.of(episodes, walking())
    model = Odometer.of(tiny().odometer, walking())
    torch.nn.init.normal_(model.step.mlp[-1].weight)
    last = model.foresight.join[-1].weight
    for share, learns in ((0.0, True), (1.0, False)):
        model.zero_grad()
        loss, _ = odometer_loss(
            model, episodes, moves, settings(seen_share=share), torch.Generator().manual_seed(0)
        )
        loss.backward()
        assert bool(last.grad.any()) is learns


def test_foresight_is_taught_where_nobody_can_stand(episodes_of) -> None:
    """By every frame, seen or not, and only about points that some witness looked at."""
    episodes, _ = walled(episodes_of(count=3, length=60))
    low, high = (episodes.poses[..., :2].flatten(0, 1).quantile(share, 0) for share in (0.3, 0.7))
    plans = FloorPlans(
        boxes=torch.cat((low - 16, high + 16)).expand(3, 1, 4), things=torch.full((3, 1, 3), -1e6)
    )
    moves, generator = Moves.of(episodes, walking()), torch.Generator()
    model = Odometer.of(tiny().odometer, walking())
    optimizer = torch.optim.AdamW(model.foresight.parameters(), lr=1e-2)
    chosen, right = settings(seen_share=1.0), []
    for step in range(40):
        plain, found = odometer_loss(model, episodes, moves, chosen, generator.manual_seed(step))
        assert "blocked_right" not in found
        loss, found = odometer_loss(model, episodes, moves, chosen, generator.manual_seed(step), plans)
        assert float(loss.detach()) > float(plain.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right.append(float(found["blocked_right"]))
    assert sum(right[-5:]) > sum(right[:5])
    unseen = blocked_loss(
        Surroundings(torch.zeros(2, 5, 2), torch.ones(2, 5, 6), torch.zeros(2, 5).bool()),
        torch.ones(2, 5).bool(),
    )
    assert [float(each) for each in unseen] == [0, 0]
