"""The descriptor's target and loss."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retrieval.descriptor import LearnedDescriptor
from worldsim.presets import tiny
from worldsim.training.covisibility import CovisibilitySettings, covisibility
from worldsim.training.descriptor import DescriptorTraining, _targets, descriptor_loss
from worldsim.training.moments import Moments

SETTINGS = CovisibilitySettings()


def one(pose: tuple[float, ...], target: tuple[float, ...], rooms: tuple[int, int] = (1, 1)) -> float:
    value = covisibility(
        torch.tensor([[pose]]),
        torch.tensor([[rooms[0]]]),
        torch.tensor([target]),
        torch.tensor([rooms[1]]),
        SETTINGS,
    )
    return float(value)


def test_covisibility_by_hand() -> None:
    """exp(−|Δfocus|²/90² − |Δxy|²/160² − (Δyaw/40)²), a third of it across rooms, nothing below 0.05."""
    here = (100.0, 200.0, 0.0, 30.0)
    assert one(here, here) == 1
    assert one(here, here, rooms=(1, 2)) == pytest.approx(0.3)
    yaw = math.radians(30)
    ahead = (100 + 40 * math.cos(yaw), 200 + 40 * math.sin(yaw), 0.0, 30.0)
    assert one(ahead, here) == pytest.approx(math.exp(-(40**2) / 90**2 - 40**2 / 160**2), abs=1e-4)
    chord = 2 * 96 * math.sin(math.radians(10))
    turned = math.exp(-(chord**2) / 90**2 - (20 / 40) ** 2)
    assert one((*here[:3], 50.0), here) == pytest.approx(turned, abs=1e-4)
    assert one((*here[:3], 210.0), here) == 0
    assert one((*here[:3], 50.0), here, rooms=(2, 1)) == pytest.approx(0.3 * turned, abs=1e-4)


def test_yaw_wraps_around() -> None:
    """359° and 1° look the same way: without wrapping every look to the east is its own opposite."""
    assert one((0.0, 0.0, 0.0, 359.0), (0.0, 0.0, 0.0, 1.0)) == pytest.approx(
        one((0.0, 0.0, 0.0, 50.0), (0.0, 0.0, 0.0, 52.0)), abs=1e-4
    )


def descriptor_settings(**changes: object) -> DescriptorTraining:
    settings = DescriptorTraining(
        data=Path("unused"), out=Path("unused"), preset="tiny", episodes=2, queries=8
    )
    return replace(settings, **changes)


def test_targets_look_ahead_and_end_with_the_episode(episodes_of) -> None:
    """Relevance is the mean over the horizons, the last frame standing in beyond the end; only old frames count."""
    episodes = episodes_of(count=2, length=60)
    generator = torch.Generator().manual_seed(0)
    poses = torch.rand(2, 60, 4, generator=generator) * torch.tensor([200.0, 200.0, 0.0, 90.0])
    episodes = replace(episodes, poses=poses, rooms=torch.randint(0, 2, (2, 60), generator=generator))
    settings = descriptor_settings(horizons=(0, 2, 4))
    moments = Moments(episode=torch.tensor([0, 1, 1]), time=torch.tensor([30, 57, 5]))
    relevance, valid = _targets(episodes, torch.tensor([1, 0]), moments, 22, settings)
    for row, (episode, time) in enumerate([(1, 30), (0, 57), (0, 5)]):
        for frame in range(60):
            values = []
            for horizon in (0, 2, 4):
                coming = min(time + horizon, 59)
                rooms = (int(episodes.rooms[episode, frame]), int(episodes.rooms[episode, coming]))
                views = (tuple(poses[episode, at].tolist()) for at in (frame, coming))
                values.append(one(*views, rooms=rooms))
            assert float(relevance[row, frame]) == pytest.approx(sum(values) / 3, abs=1e-4)
            assert bool(valid[row, frame]) == (frame < time - 22)


def test_descriptor_learns_where_the_player_will_look(episodes_of) -> None:
    """A player walks a circle: frames of the last round cover the view; the descriptor must come to find them."""
    length = 120
    episodes = episodes_of(count=2, length=length)
    angle = torch.arange(length) * 0.2
    poses = torch.stack((200 * angle.cos(), 200 * angle.sin(), 0 * angle, torch.rad2deg(angle) % 360), 1)
    episodes = replace(episodes, poses=poses.expand(2, -1, -1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LearnedDescriptor.from_settings(tiny().descriptor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    settings = descriptor_settings(noise=0.1)
    losses, found = [], []
    for step in range(40):
        generator = torch.Generator().manual_seed(step)
        loss, coverage = descriptor_loss(model, episodes, tiny(), settings, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        found.append(float(coverage))
    assert sum(losses[-5:]) / 5 < 0.85 * losses[0]
    assert sum(found[-5:]) / 5 > 0.8
