"""`worldsim train descriptor`: queries that say which past frames cover the coming view."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.history import add_noise
from retrieval.coverage import coverage_at_k, coverage_loss
from retrieval.descriptor import LearnedDescriptor
from worldsim.episode import list_episodes
from worldsim.errors import check_at_least
from worldsim.presets import Preset, preset
from worldsim.recall import make_queries
from worldsim.training.components import keep_component, start_weights, trained_autoencoder
from worldsim.training.covisibility import CovisibilitySettings, covisibility
from worldsim.training.data import LatentEpisodes, cached_latents, own_share
from worldsim.training.loop import LoopSettings, TrainingLoop
from worldsim.training.moments import Moments, recent_actions, recent_latents
from worldsim.training.processes import Processes
from worldsim.training.state import TrainingState


@dataclass(frozen=True, kw_only=True)
class DescriptorTraining:
    """Train the learned descriptor on recorded episodes; needs the run's autoencoder."""

    data: Path
    """folder of recorded episodes"""
    out: Path
    """the run folder that `worldsim train autoencoder` filled"""
    preset: str = "default"
    """tiny, default or large"""
    warm_start: Path | None = None
    """checkpoint folder whose weights training begins with"""
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=3000))
    covisibility: CovisibilitySettings = field(default_factory=CovisibilitySettings)
    episodes: int = 8
    """episodes a step and process; all their past frames are candidates"""
    queries: int = 32
    """queries an episode"""
    learning_rate: float = 2e-3
    """highest learning rate"""
    sharpness: float = 3.0
    """power of the covisibility in the target: above 1, the best frames count more than the many fair ones"""
    noise: float = 0.3
    """highest noise level on latents: keys and queries must work on the model's own frames too"""
    horizons: tuple[int, ...] = (0, 2, 4)
    """frames ahead whose views count as coming"""
    seed: int = 0
    """chooses weights and batches"""
    workers: int = 8
    """processes that read episodes, a training process"""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "episodes", "queries", "workers")


def train_descriptor(settings: DescriptorTraining) -> None:
    """Train, and write `descriptor/` into the run's checkpoint folder."""
    processes = Processes.join(settings.device)
    sizes = preset(settings.preset)
    autoencoder = trained_autoencoder(settings.out, settings.preset).to(processes.device)
    paths = own_share(list_episodes(settings.data), processes.rank, processes.count)
    cache = settings.out / "latents" / f"{processes.rank}_of_{processes.count}.safetensors"
    episodes = cached_latents(paths, autoencoder, cache, settings.workers, processes.main)
    torch.manual_seed(settings.seed)
    model = LearnedDescriptor.from_settings(sizes.descriptor)
    start_weights(model, "descriptor", settings.warm_start)
    model.to(processes.device)
    processes.same_start(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    state = TrainingState(model, [optimizer], decay=0.995)
    loop = TrainingLoop("descriptor", settings.out, state, settings.loop, processes)
    parameters = list(model.parameters())

    def take_step(step: int) -> dict[str, Tensor]:
        generator = processes.generator(settings.seed, step)
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=processes.device.type == "cuda"):
            loss, found = descriptor_loss(model, episodes, sizes, settings, generator)
        optimizer.zero_grad()
        loss.backward()
        processes.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state.average.update(model, step)
        return {"loss": loss.detach(), "coverage_at_4": found}

    loop.train(take_step)
    state.average.copy_to(model)
    keep_component(model, "descriptor", settings.out, processes)
    processes.leave()


def descriptor_loss(
    model: LearnedDescriptor,
    episodes: LatentEpisodes,
    sizes: Preset,
    settings: DescriptorTraining,
    generator: torch.Generator,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Coverage loss of a few moments of a few episodes against all frames of the same episode, and coverage at 4."""
    device = generator.device
    section, reach = sizes.schedule.section, sizes.schedule.recent_frames
    chosen = torch.randint(len(episodes), (settings.episodes,), generator=generator, device=device)
    latents = episodes.latents[chosen].float()
    level = (
        settings.noise * torch.rand(latents.shape[:2], generator=generator, device=device).flatten().square()
    )
    noise = torch.randn(latents.shape, generator=generator, device=device)
    latents = add_noise(latents.flatten(0, 1), level, noise.flatten(0, 1)).view_as(latents)
    keys = model.keys(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
    uniform = torch.rand(settings.episodes, settings.queries, generator=generator, device=device)
    times = (reach + uniform * (episodes.lengths[chosen, None] - reach - section)).long().clamp(min=1)
    moments = Moments(
        episode=torch.arange(settings.episodes, device=device).repeat_interleave(settings.queries),
        time=times.flatten(),
    )
    recent, present = recent_latents(latents, moments, reach)
    actions = recent_actions(episodes.actions[chosen], moments, reach, section)
    queries = make_queries(model, recent, present, actions, section)
    relevance, valid = _targets(episodes, chosen, moments, reach, settings)
    repeated = keys[moments.episode]
    loss = coverage_loss(queries, repeated, relevance**settings.sharpness, valid, model.logit_scale)
    scores = torch.einsum("bd,bnd->bn", queries.detach().float(), repeated.detach().float())
    return loss, coverage_at_k(scores, relevance, valid, 4)


def _targets(
    episodes: LatentEpisodes,
    chosen: Int[Tensor, " episode"],
    moments: Moments,
    reach: int,
    settings: DescriptorTraining,
) -> tuple[Float[Tensor, "batch n"], Bool[Tensor, "batch n"]]:
    """Mean covisibility over the horizons, and which frames recall may pick (older than the recent context)."""
    poses, rooms = episodes.poses[chosen][moments.episode], episodes.rooms[chosen][moments.episode]
    last = episodes.lengths[chosen][moments.episode] - 1
    rows = torch.arange(len(moments.time), device=poses.device)
    total = torch.zeros(poses.shape[:2], device=poses.device)
    for horizon in settings.horizons:
        coming = torch.minimum(moments.time + horizon, last)
        total += covisibility(poses, rooms, poses[rows, coming], rooms[rows, coming], settings.covisibility)
    valid = torch.arange(poses.shape[1], device=poses.device) < moments.time[:, None] - reach
    return total / len(settings.horizons), valid
