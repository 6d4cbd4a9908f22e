"""The odometer: exact where the actions tell all, able to learn what walls do, and the same in pieces."""

from dataclasses import replace

import pytest
import torch

from retrieval.motion import Motion, turned
from retrieval.odometer import ACTIONS, Odometer, OdometerSettings, Whereabouts
from retrieval.offset import Offset

SETTINGS = OdometerSettings(channels=2, height=4, width=8, fine=8, coarse=8, head_width=16)


def walking(sizes: tuple[int, ...] = (2, 3)) -> Motion:
    """Factor 0 walks 8 units forward, factor 1 turns by 10 degrees."""
    turns = tuple((0.0, 10.0, -10.0)[row % 3] for row in range(27))
    push = tuple((8.0 * (row // 3), 0.0) for row in range(6))
    return Motion(
        sizes=sizes, turn_factor=1, turns_deg=turns, carry=0.0, thrust=push, after=((0.0, 0.0),) * 6
    )


def an_odometer(gate: float, seed: int = 0) -> Odometer:
    """Random weights; `gate` far below 0 trusts the actions alone, far above it never does."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Odometer.of(SETTINGS, walking()).eval().requires_grad_(False)
        torch.nn.init.normal_(model.step.mlp[-1].weight)
    model.step.mlp[-1].bias[0] = gate
    return model


def inputs(batch: int, time: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(batch, time, 2, 4, 8, generator=generator)
    return latents, torch.stack(
        [torch.randint(0, n, (batch, time + ACTIONS - 1), generator=generator) for n in (2, 3)], -1
    )


def test_free_moves_are_exact() -> None:
    """Nothing in the way: a square walked along its four sides ends where it began, over and over."""
    model = an_odometer(-1e9)
    side = [[1, 0]] * 5 + [[0, 1]] * 9
    actions = torch.tensor([[[0, 0]] * (ACTIONS - 1) + [[0, 0]] + side * 40])
    latents = torch.zeros(1, 1 + len(side) * 40, 2, 4, 8)
    followed, where = model.track(Whereabouts.origin(1), latents, actions)
    poses = followed.poses
    assert torch.equal(poses, followed.expected)
    torch.testing.assert_close(where.pose, torch.tensor([[0.0, 0.0, 3600.0]]), atol=0.05, rtol=0)
    torch.testing.assert_close(poses[0, 4], torch.tensor([40.0, 0.0, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(poses[0, 18], torch.tensor([40.0, 40.0, 90.0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("gate", [-1e9, 1e9])
def test_pieces_make_the_whole(gate: float) -> None:
    """Play follows frame by frame, training whole episodes: one place, or the model trains on another world's map."""
    model = an_odometer(gate)
    latents, actions = inputs(2, 140)
    whole, end = model.track(Whereabouts.origin(2), latents, actions)
    where, parts, first = Whereabouts.origin(2), [], 0
    for last in (1, 2, 70, 139):
        upto = actions[:, : ACTIONS - 1 + last + 1]
        followed, where = model.track(where, latents[:, first : last + 1], upto)
        parts.append(followed.poses)
        first = last
    torch.testing.assert_close(torch.cat(parts, 1), whole.poses, atol=1e-3, rtol=0)
    torch.testing.assert_close(where.move, end.move, atol=1e-3, rtol=0)
    nothing, same = model.track(where, latents[:, -1:], actions)
    assert nothing.poses.shape == (2, 0, 3)
    assert same is where


def test_what_is_expected_is_what_tracking_expected() -> None:
    """The pose told to the model at play is the one it was trained with; later frames of a section go as told."""
    model = an_odometer(1e9)
    latents, actions = inputs(2, 30)
    followed, where = model.track(Whereabouts.origin(2), latents[:, :29], actions[:, :-1])
    everything, _ = model.track(Whereabouts.origin(2), latents, actions)
    coming, _ = model.expect(where, latents[:, 28], actions, 1)
    torch.testing.assert_close(coming.poses[:, 0], everything.expected[:, -1], atol=1e-4, rtol=0)
    told = an_odometer(-1e9)
    several, end = told.expect(where, latents[:, 28], torch.cat((actions, actions[:, :2]), 1), 3)
    longer = torch.cat((latents[:, 28:29],) * 4, 1)
    later, _ = told.track(where, longer, torch.cat((actions, actions[:, :2]), 1))
    for known, same in (
        (several.poses, later.poses),
        (several.moves, later.moves),
        (several.doubts, later.doubts),
    ):
        torch.testing.assert_close(known, same, atol=1e-4, rtol=0)
    assert torch.equal(end.pose, several.poses[:, -1])
    assert not torch.allclose(followed.poses, followed.expected, atol=0.1)


class Shortening(torch.nn.Module):
    """Features that tell by how much a step is shortened: `foreseen` by the frame before it alone, `shown` by both."""

    def __init__(self, foreseen: float, shown: float) -> None:
        super().__init__()
        self.foreseen, self.shown = foreseen, shown

    def forward(self, first, second, turn_deg, present):
        assert present.all()
        return torch.full((len(first), SETTINGS.head_width), self.shown)

    def alone(self, views):
        return views

    def told(self, cells):
        return torch.full((len(cells), SETTINGS.head_width), self.foreseen)


class Stopped(Odometer):
    """Every step is shortened, as features say."""

    def judge(self, features, free, turn_deg, bump):
        offset = torch.stack((free[:, 0] - features[:, 0], free[:, 1]), 1)
        return Offset(torch.full_like(free[:, 0], 9.0), offset, torch.zeros_like(free[:, 0]))


@pytest.mark.parametrize("foreseen", [0.0, 3.0])
def test_what_a_model_draws_is_what_it_was_told_to_draw(foreseen: float) -> None:
    """Drawn a little wrong, a frame looks like one of a step that was stopped; the places told must not follow that."""
    latents, actions = inputs(1, 2)
    actions[:, :, 0] = 1
    model = Stopped.of(SETTINGS, walking()).eval()
    model.views = Shortening(foreseen, foreseen + 4)
    expected, drawn = model.expect(Whereabouts.origin(1), latents[:, 0], actions, 1)
    followed, seen = model.track(Whereabouts.origin(1), latents, actions)
    for where, stopped in ((seen, foreseen + 4), (drawn, foreseen)):
        assert float(where.pose[0, 0]) == pytest.approx(8 - stopped, abs=1e-4)
        assert float(where.bump[0, 0]) == pytest.approx(-stopped, abs=1e-4)
    torch.testing.assert_close(followed.expected[:, 0], expected.poses[:, 0], atol=1e-4, rtol=0)


def test_a_bump_is_told_on() -> None:
    """Whoever was stopped is most likely to be stopped again: the next step is judged knowing it, in the view's axes."""
    model = an_odometer(1e9)
    where = replace(Whereabouts.origin(1), pose=torch.tensor([[0.0, 0.0, 90.0]]))
    actions, features = torch.tensor([[[1, 0]] * (ACTIONS + 1)]), torch.zeros(1, SETTINGS.head_width)
    free, _ = model.told_move(where, actions)
    for bump, seen in ((torch.tensor([[0.0, -5.0]]), torch.tensor([[-5.0, 0.0]])), (free * 0, free * 0)):
        after = model.advance(replace(where, bump=bump), features, actions)
        told = model.judge(features, torch.tensor([[8.0, 0.0]]), torch.zeros(1), seen)
        torch.testing.assert_close(turned(told.offset, where.pose[:, 2]), after.move, atol=1e-4, rtol=0)
        torch.testing.assert_close(after.bump, after.move - free, atol=1e-4, rtol=0)
    stopped, still = (model.judge(features, free, torch.zeros(1), b).offset for b in (free - 5, free * 0))
    assert not torch.allclose(stopped, still, atol=1e-3)


def test_a_frame_to_come_is_not_looked_at() -> None:
    """A guess that peeked at the coming frame would be worthless at play."""
    model = an_odometer(1e9)
    latents, _ = inputs(2, 3)
    unseen = torch.zeros(2, dtype=torch.bool)
    turn = torch.tensor([0.0, 30.0])
    first, second = (model.views(latents[:, 0], latents[:, i], turn, unseen) for i in (1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, model.views(latents[:, 0], latents[:, 1], turn, ~unseen))


def test_saved_and_loaded_it_leads_to_the_same_place(tmp_path) -> None:
    """The motion tables stand in config.json, as exact as they were."""
    model = an_odometer(1e9)
    model.save_pretrained(tmp_path)
    loaded = Odometer.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    assert loaded.motion == model.motion
    latents, actions = inputs(1, 20)
    ends = [each.track(Whereabouts.origin(1), latents, actions)[1].pose for each in (model, loaded)]
    assert torch.equal(*ends)


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="height 5, width 8 must be even"):
        Odometer.of(OdometerSettings(channels=2, height=5, width=8), walking())
