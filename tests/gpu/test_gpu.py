"""What only a GPU shows: the same worlds as on a CPU, compiled blocks, a training step in bfloat16."""

from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from models.flow import Draft
from models.graphed import Graphed
from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.build import build_models, random_openings
from worldsim.checkpoint import load_checkpoint, save_checkpoint
from worldsim.presets import tiny
from worldsim.training.batches import Batch, Batches
from worldsim.training.data import LatentEpisodes
from worldsim.training.model import compile_blocks
from worldsim.training.model_training import ModelTraining
from worldsim.training.processes import Processes
from worldsim.training.recalling import BatchRecall, mark_episodes
from worldsim.training.self_rollout import SelfRolloutSettings
from worldsim.training.trainer import ModelTrainer
from worldsim.world import World, WorldSettings

pytestmark = pytest.mark.gpu

SPACE = ActionSpace(
    tuple(
        ActionFactor(name=name, choices=("none", "one", "two"), keys=((keys[0],), (keys[1],)))
        for name, keys in (("move", "ws"), ("turn", "qe"), ("strafe", "ad"))
    )
)


@pytest.mark.parametrize(("guidance", "layout_noise"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.25)])
def test_a_world_is_the_same_on_both_devices(tmp_path: Path, guidance: float, layout_noise: float) -> None:
    """Noise drawn on the device, or a layout that only the GPU takes, would make another world."""
    models = build_models(tiny(), SPACE)
    models.openings = random_openings(models, count=1, frames=40)
    save_checkpoint(models, tmp_path)
    made = {}
    for device in ("cpu", "cuda"):
        settings = WorldSettings(guidance=guidance, layout_noise=layout_noise)
        world = World(load_checkpoint(tmp_path, device, torch.float32), settings)
        world.reset(0)
        made[device] = [world.step(np.array([[1, 1, 0]])) for _ in range(3)]
    for on_cpu, on_gpu in zip(made["cpu"], made["cuda"], strict=True):
        assert [each.frame for each in on_gpu.recalled] == [each.frame for each in on_cpu.recalled]
        torch.testing.assert_close(on_gpu.latents.cpu(), on_cpu.latents, rtol=1e-2, atol=1e-2)


def trainer_on_a_still_world(own_after: int) -> ModelTrainer:
    """A tiny model whose two episodes show one frame for ever."""
    device, sizes = torch.device("cuda"), tiny()
    generator = torch.Generator().manual_seed(0)
    frame = torch.randn(1, 1, 4, 12, 16, generator=generator).expand(2, 80, -1, -1, -1)
    episodes = LatentEpisodes(
        latents=frame.half().contiguous(),
        actions=torch.zeros(2, 80, 3, dtype=torch.uint8),
        poses=torch.zeros(2, 80, 4),
        rooms=torch.zeros(2, 80, dtype=torch.int16),
        lengths=torch.tensor([80, 80]),
    ).to(device)
    models = build_models(sizes, SPACE)
    parts = [part.to(device) for part in (models.descriptor, models.odometer)]
    model = models.transformer.to(device).train().requires_grad_(True)
    settings = ModelTraining(
        data=Path("unused"), out=Path("unused"), batch=16, learning_rate=5e-3, history_noise=0.1,
        own_frames=SelfRolloutSettings(after_steps=own_after),
    )  # fmt: skip
    sizes = replace(sizes, flow=replace(sizes.flow, layout_noise=0.25))
    recall = BatchRecall(episodes, mark_episodes(episodes, *parts), parts[0], sizes, settings.recall)
    processes = Processes(rank=0, count=1, device=device)
    batches = Batches(model, episodes, recall, parts[1], sizes, settings)
    return ModelTrainer(model, batches, sizes, settings, processes)


@pytest.mark.filterwarnings(
    "ignore:::torch"
)  # The compiler's advice on itself differs from version to version.
@pytest.mark.parametrize("compiled", [False, True])
def test_training_learns_on_a_gpu(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast and compilation must not change what is learned; the model's own frames run compiled too."""
    trainer = trainer_on_a_still_world(own_after=30)
    if compiled:
        # The compiler cannot look into checks of shapes, which a training does not make either.
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        compile_blocks(trainer.model)
    losses = [float(trainer.take_step(step)["loss_true_history"]) for step in range(60)]
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def own_draft(trainer: ModelTrainer, batch: Batch) -> Draft:
    """What the batch's held histories are drawn from."""
    assert trainer.batches.own is not None
    return trainer.batches.own.held.draft(batch.coming[-batch.own :])


@pytest.mark.filterwarnings("ignore:::torch")
def test_own_frames_are_the_same_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of compiled blocks makes the frames that the model makes, step after step, while its weights change."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    trainer = trainer_on_a_still_world(own_after=0)
    plain = trainer_on_a_still_world(own_after=0)
    compile_blocks(trainer.model)
    for step in range(6):
        trainer.take_step(step)
        plain.model.load_state_dict(trainer.model.state_dict())
        generator = trainer.processes.generator(1, step)
        batch = trainer.batches.draw(step + 1, generator)
        actions = batch.actions[-batch.own :]
        with torch.no_grad():
            noise, history = trainer._own_draw(batch.own_history, batch.coming.shape[1], generator)
            draft = own_draft(trainer, batch)
            torch.testing.assert_close(
                trainer._make_next(noise, actions, history, draft),
                plain._sample(noise, actions, history, draft),
                rtol=0.05,
                atol=0.05,
            )


def test_graphs_follow_inputs_and_weights() -> None:
    """A graph replays what it was captured with: stale inputs or weights would show as the first call's result."""
    layer = torch.nn.Linear(8, 8).cuda()
    graphed = Graphed(layer)
    inputs = [torch.randn(2, 8, device="cuda") for _ in range(3)]
    with torch.no_grad():
        kept = graphed(inputs[0])
        expected = layer(inputs[0])
        for x in inputs:
            torch.testing.assert_close(graphed(x), layer(x))
        torch.testing.assert_close(kept, expected)
        layer.weight.mul_(-2)
        torch.testing.assert_close(graphed(inputs[0]), layer(inputs[0]))
        torch.testing.assert_close(graphed(inputs[0][:1]), layer(inputs[0][:1]))


def test_own_frames_follow_the_weights() -> None:
    """Training continues its own histories by a graph under autocast, whose cached casts would freeze the weights."""
    trainer = trainer_on_a_still_world(own_after=0)
    trainer.take_step(0)
    batch = trainer.batches.draw(1, trainer.processes.generator(0, 1))
    actions, generator = batch.actions[-batch.own :], trainer.processes.generator(0, 2)
    with torch.no_grad():
        noise, history = trainer._own_draw(batch.own_history, batch.coming.shape[1], generator)
        draft = own_draft(trainer, batch)
        before = trainer._make_next(noise, actions, history, draft)
        trainer.model.final.weight.normal_()
        torch.testing.assert_close(
            trainer._make_next(noise, actions, history, draft),
            trainer._sample(noise, actions, history, draft),
            rtol=0.05,
            atol=0.05,
        )
        assert not torch.allclose(before, trainer._sample(noise, actions, history, draft), atol=0.1)
