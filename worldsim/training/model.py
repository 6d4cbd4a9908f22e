"""`worldsim train model`: the transformer that makes the next section from its packed history."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from models.codebook import fit_codebook
from models.transformer import WorldTransformer
from worldsim.checkpoint import WorldModels, write_world_json
from worldsim.episode import list_episodes
from worldsim.training.batches import Batches
from worldsim.training.components import (
    checkpoint_folder,
    keep_component,
    start_weights,
    trained_autoencoder,
    trained_component,
)
from worldsim.training.data import LatentEpisodes, cached_latents, own_share
from worldsim.training.loop import TrainingLoop
from worldsim.training.model_training import ModelTraining
from worldsim.training.openings import keep_openings
from worldsim.training.preview import ModelPreview
from worldsim.training.processes import Processes
from worldsim.training.reading import read_action_space
from worldsim.training.recalling import BatchRecall, mark_episodes
from worldsim.training.sharding import shard
from worldsim.training.trainer import ModelTrainer

CODEBOOK_PIXELS = 400_000
"""a codebook is fitted to about so many"""


def train_model(settings: ModelTraining) -> None:
    """Train, and complete the run's checkpoint folder: transformer, openings, world.json."""
    if settings.loop.log_steps % settings.own_frames.length:
        raise ValueError(
            f"log steps {settings.loop.log_steps} are not a multiple of the {settings.own_frames.length} own steps; "
            "set --loop.log-steps or --own-frames.length so that resuming is exact"
        )
    processes = Processes.join(settings.device)
    sizes = settings.sizes
    autoencoder = trained_autoencoder(settings.out, settings.preset).to(processes.device)
    descriptor, odometer = (
        trained_component(settings.out, name).to(processes.device) for name in ("descriptor", "odometer")
    )
    paths = list_episodes(settings.data)
    own_paths = own_share(paths, processes.rank, processes.count)
    cache = settings.out / "latents" / f"{processes.rank}_of_{processes.count}.safetensors"
    everything = cached_latents(own_paths, autoencoder, cache, settings.workers, processes.main)
    episodes, validation = everything.split(settings.validation_episodes)
    torch.manual_seed(settings.seed)
    model = WorldTransformer.of(sizes.transformer)
    if model.codebook is not None:
        model.codebook.codes.copy_(fit_codebook(some_pixels(episodes), settings.codes, settings.seed))
    start_weights(model, "transformer", settings.warm_start)
    model.to(processes.device)
    processes.same_start(model)
    if settings.shard:
        shard(model, processes)
    marks = mark_episodes(episodes, descriptor, odometer)
    recall = BatchRecall(episodes, marks, descriptor, sizes, settings.recall)
    batches = Batches(model, episodes, recall, odometer, sizes, settings)
    trainer = ModelTrainer(model, batches, sizes, settings, processes)
    if settings.compile:
        compile_blocks(model)
    loop = TrainingLoop("model", settings.out, trainer.state, settings.loop, processes)
    averaged = WorldTransformer.of(sizes.transformer).to(processes.device).eval().requires_grad_(False)
    models = WorldModels(
        autoencoder, descriptor, odometer, averaged, read_action_space(paths), sizes.flow, sizes.recall
    )
    preview = ModelPreview(models, trainer.state, validation, settings.out / "strips")
    loop.train(trainer.take_step, preview)
    trainer.state.copy_average_to(averaged)
    finish(models, trainer, episodes, settings, len(paths))


def some_pixels(episodes: LatentEpisodes) -> Float[Tensor, "pixel channel"]:
    """Latent pixels spread evenly over all frames, about CODEBOOK_PIXELS of them."""
    frames = torch.cat(
        [each[:length] for each, length in zip(episodes.latents, episodes.lengths.tolist(), strict=True)]
    )
    pixels = frames.movedim(1, -1).flatten(0, -2)
    return pixels[:: max(1, len(pixels) // CODEBOOK_PIXELS)]


def compile_blocks(model: WorldTransformer) -> None:
    """Compile the blocks: they share one code, so that it is compiled once a shape, not once a layer.

    History, noise draws and own frames have three shapes: kernels of their own for each are faster than general ones.
    """
    torch._dynamo.config.cache_size_limit = 64
    for block in model.blocks:
        block.compile(dynamic=False)


def finish(
    models: WorldModels,
    trainer: ModelTrainer,
    episodes: LatentEpisodes,
    settings: ModelTraining,
    recorded: int,
) -> None:
    """Write the averaged weights and everything else that a checkpoint holds."""
    processes, folder = trainer.processes, checkpoint_folder(settings.out)
    keep_component(models.transformer, "transformer", settings.out, processes)
    if processes.main:
        keep_openings(episodes, folder, settings.seed)
        trained: dict[str, Any] = {
            "episodes": recorded, "steps": trainer.state.step, "minutes": round(trainer.state.minutes, 2),
            "processes": processes.count, "batch": settings.batch * processes.count, "draws": settings.draws,
            "preset": settings.preset,
        }  # fmt: skip
        write_world_json(folder, models.action_space, models.flow, models.recall, trained)
        print(f"checkpoint written to {folder}", flush=True)
    processes.leave()
