"""Episodes in latents that are cheap to make, and trainers on them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.schedule import Schedule
from models.transformer import WorldTransformer
from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.build import build_models
from worldsim.presets import tiny
from worldsim.recall import ACTION_STEPS
from worldsim.training.batches import Batches
from worldsim.training.data import LatentEpisodes
from worldsim.training.loop import LoopSettings
from worldsim.training.model_training import ModelTraining
from worldsim.training.processes import Processes
from worldsim.training.recalling import BatchRecall, mark_episodes
from worldsim.training.self_rollout import SelfRolloutSettings
from worldsim.training.sharding import shard
from worldsim.training.trainer import ModelTrainer

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


def make_episodes(count: int = 3, length: int = 90, seed: int = 0) -> LatentEpisodes:
    """Smooth latents: each frame is a little further along a circle between two pictures."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(2, count, 1, 4, 12, 16, generator=generator)
    angle = (torch.arange(length) * 0.2).view(1, -1, 1, 1, 1)
    actions = torch.randint(3, (count, length, 3), generator=generator, dtype=torch.uint8)
    actions[:, 0] = 0
    return LatentEpisodes(
        latents=(pictures[0] * angle.cos() + pictures[1] * angle.sin()).half(),
        actions=actions,
        poses=torch.zeros(count, length, 4),
        rooms=torch.zeros(count, length, dtype=torch.int16),
        lengths=torch.full((count,), length),
    )


def tiny_training(**changes: object) -> ModelTraining:
    """Settings of a training that takes milliseconds a step."""
    settings = ModelTraining(
        data=Path("unused"),
        out=Path("unused"),
        preset="tiny",
        loop=LoopSettings(steps=48, warmup_steps=10, log_steps=12),
        own_frames=SelfRolloutSettings(after_steps=12, length=6),
        batch=6,
        draws=2,
        device="cpu",
        workers=1,
    )
    return replace(settings, **changes)


def make_trainer(
    settings: ModelTraining | None = None,
    episodes: LatentEpisodes | None = None,
    processes: Processes = ALONE,
    seed: int = 0,
    schedule: str = tiny().transformer.schedule,
    sharded: bool = False,
) -> ModelTrainer:
    """A trainer as `train_model` makes it, on synthetic episodes."""
    episodes = episodes or make_episodes()
    sizes = replace(
        tiny(),
        transformer=replace(
            tiny().transformer, schedule=schedule, codes=8 if Schedule.parse(schedule).discretised else 0
        ),
        descriptor=replace(tiny().descriptor, steps=ACTION_STEPS + Schedule.parse(schedule).section),
    )
    factor = [("move", "a", "b"), ("turn", "c", "d"), ("strafe", "e", "f")]
    space = ActionSpace(
        tuple(
            ActionFactor(name=name, choices=("none", "one", "two"), keys=((a,), (b,)))
            for name, a, b in factor
        )
    )
    models = build_models(sizes, space, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WorldTransformer.of(sizes.transformer)
    processes.same_start(model)
    if sharded:
        shard(model, processes)
    settings = settings or tiny_training()
    recall = BatchRecall(
        episodes,
        mark_episodes(episodes, models.descriptor, models.odometer),
        models.descriptor,
        sizes,
        settings.recall,
    )
    batches = Batches(model, episodes, recall, models.odometer, sizes, settings)
    return ModelTrainer(model, batches, sizes, settings, processes)


@pytest.fixture
def trainer_of() -> Callable[..., ModelTrainer]:
    return make_trainer


@pytest.fixture
def training_of() -> Callable[..., ModelTraining]:
    return tiny_training


@pytest.fixture
def episodes_of() -> Callable[..., LatentEpisodes]:
    return make_episodes
