"""What play foresees of the next step: from the same witnesses as training, and kept as it was told."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from retrieval.foresight import LATELY, choose_witnesses
from retrieval.motion import Motion
from retrieval.odometer import Odometer
from retrieval.whereabouts import Followed
from worldsim.checkpoint import WorldModels
from worldsim.past import foreseen, recent_of, witnesses_in
from worldsim.presets import tiny
from worldsim.section_maker import SectionMaker
from worldsim.world import World, step_worlds

ACTIONS = torch.tensor(
    [[1, 0, 0]] * 12 + [[0, 1, 0]] * 9 + [[1, 0, 0]] * 12 + [[0, 2, 0]] * 14 + [[2, 0, 0]] * 9
)


@pytest.fixture
def models(tiny_models: WorldModels) -> WorldModels:
    """Actions that walk and turn; an odometer that always changes steps by what it foresees, and recognises nothing."""
    turns = tuple((0.0, 10.0, -10.0)[row % 3] for row in range(27))
    push = tuple(((0.0, 12.0, -12.0)[row // 9], 0.0) for row in range(27))
    walking = Motion(
        sizes=(3, 3, 3), turn_factor=1, turns_deg=turns, carry=0.0, thrust=push, after=((0.0, 0.0),) * 27
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        odometer = Odometer.of(tiny().odometer, walking).eval().requires_grad_(False)
        torch.nn.init.normal_(odometer.step.mlp[-1].weight, std=0.05)
        assert odometer.foresight is not None
        torch.nn.init.normal_(odometer.foresight.join[-1].weight, std=3.0)
    odometer.step.mlp[-1].bias[0], odometer.registration.mlp[-1].bias[0] = 9.0, -9.0
    return replace(tiny_models, odometer=odometer, makers={})


def a_walk(models: WorldModels, frames: int) -> tuple[World, torch.Tensor]:
    """A world that has seen so many frames of a walk, and those and one more."""
    latents = torch.randn(frames + 1, 4, 12, 16, generator=torch.Generator().manual_seed(2)).half().float()
    world = World(models)
    world.observe(latents[:frames], ACTIONS.repeat(2, 1)[:frames])
    return world, latents


def looked_ahead(models: WorldModels, world: World, action: torch.Tensor):
    recent = recent_of([world.memory], models)
    actions = torch.cat((recent.actions, action[None]), 1)
    maker = SectionMaker.of(models, models.flow)
    return foreseen([world.memory], maker, world.where, recent.latents[:, -1], actions, 1)


@pytest.mark.parametrize("frames", [1, 8, 47, 55])
def test_play_asks_the_witnesses_that_training_asks(models: WorldModels, frames: int) -> None:
    """Another choice at play would tell the model of places that it was never told in training."""
    world, latents = a_walk(models, frames)
    expected, _ = looked_ahead(models, world, ACTIONS[frames : frames + 1])
    followed = models.odometer.follow(latents[None], ACTIONS[None, : frames + 1])
    torch.testing.assert_close(expected.poses[0, 0], followed.expected[0, -1], atol=2e-3, rtol=0)
    blind = deepcopy(models.odometer)
    blind.foresight = None
    other, _ = looked_ahead(replace(models, odometer=blind, makers={}), world, ACTIONS[frames : frames + 1])
    assert float((other.poses - expected.poses).norm()) > 0.03


@pytest.mark.parametrize("spread", [400.0, 9000.0])
def test_witnesses_of_an_old_world_are_those_of_all_its_frames(models: WorldModels, spread: float) -> None:
    """Whether or not enough of the newest frames looked there: the choice is that of a search through everything."""
    world, count = World(models), LATELY + 1500
    generator = torch.Generator().manual_seed(5)
    poses = torch.rand(count, 3, generator=generator) * torch.tensor([spread, spread, 360.0])
    path = Followed.of_poses(poses[None])
    keys = torch.nn.functional.normalize(
        torch.randn(count, models.descriptor.dim, generator=generator), dim=1
    )
    scans = torch.arange(count).half()[:, None, None].expand(-1, tiny().odometer.witness_channels, 16)
    actions = torch.zeros(count, 3, dtype=torch.int64)
    world.memory.append(torch.zeros(count, 4, 12, 16), actions, path, keys.numpy(), scans=scans)
    poses, ages = world.memory.poses[None], torch.arange(count, 0, -1)[None]
    old = 0
    for place in torch.rand(12, 1, 2, generator=generator) * spread:
        frames, present = choose_witnesses(place, poses, ages, ages > 0, 90.0)
        found = witnesses_in(world.memory, place, 90.0)
        assert torch.equal(found.present, present)
        assert torch.equal(found.poses[present], poses[0, frames[0]][None][present])
        assert torch.equal(found.scans[present], scans[frames[0]][None][present])
        old += int((ages[0, frames[0]][present[0]] > LATELY).any())
    assert (old > 0) == (spread > 1000)


def test_every_frame_is_kept_with_what_it_tells_as_a_witness(models: WorldModels) -> None:
    """Seen at once, seen one by one, or drawn: what later steps ask is of that very frame."""
    world, latents = a_walk(models, 70)
    world.observe(latents[-1:], ACTIONS[:1])
    world.step(ACTIONS[:1].numpy())
    kept = world.memory.scans
    assert kept.shape == (72, tiny().odometer.witness_channels, 16)
    found = models.odometer.scans(world.memory.latents(list(range(72))).float())
    torch.testing.assert_close(kept.float(), found, atol=2e-2, rtol=1e-2)
    assert float((kept[1:] - kept[:-1]).float().abs().mean()) > 0.1
    world.reset(0)
    assert len(world.memory.scans) == len(world.memory)


def test_what_is_drawn_is_where_it_was_told(models: WorldModels) -> None:
    """A frame that the model drew a little off is no step that something changed."""
    worlds = [a_walk(models, frames)[0] for frames in (47, 55)]
    expected = [looked_ahead(models, world, ACTIONS[:1])[0] for world in worlds]
    step_worlds(worlds, ACTIONS[None, :1].expand(2, -1, -1))
    for world, told in zip(worlds, expected, strict=True):
        kept = world.memory.poses[-1]
        torch.testing.assert_close(kept, told.poses[0, 0], atol=2e-3, rtol=0)
        torch.testing.assert_close(world.where.pose[0], kept)
