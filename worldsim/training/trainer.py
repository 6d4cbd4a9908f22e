"""Steps of the world model's training: batches of moments, one history pass for several noise draws, own frames."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.flow import draw_sigmas, noisy_and_velocity, sample
from models.graphed import Graphed
from models.history import AgedFrames, History
from models.history_cache import HistoryCache
from models.patchifier import tail_cells
from models.schedule import Schedule
from models.transformer import WorldTransformer
from retrieval.odometer import Odometer
from worldsim.errors import check_at_least
from worldsim.presets import Preset, preset
from worldsim.training.data import LatentEpisodes
from worldsim.training.loop import LoopSettings
from worldsim.training.moments import (
    Moments,
    Pasts,
    coming_latents,
    first_frames,
    recent_actions,
    recent_latents,
    tail_frames,
)
from worldsim.training.optimizers import make_optimizers
from worldsim.training.processes import Processes
from worldsim.training.recalling import BatchRecall, Picks, RecallMixture
from worldsim.training.self_rollout import SelfRollout, SelfRolloutSettings, random_moments
from worldsim.training.state import TrainingState


@dataclass(frozen=True, kw_only=True)
class ModelTraining:
    """Train the world model on recorded episodes; needs the run's autoencoder, descriptor and odometer."""

    data: Path
    """folder of recorded episodes"""
    out: Path
    """the run folder that `worldsim train autoencoder`, `… descriptor` and `… odometer` filled"""
    preset: str = "default"
    """tiny, default or large"""
    schedule: str | None = None
    """in FramePack's notation; None takes the preset's"""
    codes: int = 128
    """K-Means codes of a discretised history, where the schedule says +D"""
    warm_start: Path | None = None
    """checkpoint folder whose weights training begins with"""
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(steps=20_000))
    recall: RecallMixture = field(default_factory=RecallMixture)
    own_frames: SelfRolloutSettings = field(default_factory=SelfRolloutSettings)
    batch: int = 256
    """moments a step and process"""
    draws: int = 4
    """noise draws that share one history pass"""
    shift: float = 2.0
    """of noise levels: above 1, more weight on high noise (Esser et al. 2024, equation 23)"""
    learning_rate: float = 2e-3
    """highest learning rate"""
    weight_decay: float = 0.05
    """of the matrices that Muon trains"""
    history_noise: float = 0.5
    """highest noise level on true histories (GameNGen, Valevski et al. 2024, section 3.2.1), told to the model"""
    clean_share: float = 0.3
    """part of the histories that stay clean"""
    validation_episodes: int = 8
    """episodes of each process that only previews and validation see"""
    compile: bool = False
    """compile one transformer block and use it for all (GPU)"""
    seed: int = 0
    """chooses weights and batches"""
    workers: int = 8
    """processes that read episodes, a training process"""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    @property
    def sizes(self) -> Preset:
        """The preset with this schedule. ValueError if that is none, or of other sections than the descriptor's."""
        sizes = preset(self.preset)
        schedule = Schedule.parse(self.schedule or sizes.transformer.schedule)
        if schedule.section != sizes.schedule.section:
            raise ValueError(
                f"schedule {schedule.text!r} makes {schedule.section} frames at once, preset {self.preset!r} "
                f"{sizes.schedule.section}; end it with g{sizes.schedule.section}"
            )
        codes = self.codes if schedule.discretised else 0
        return replace(sizes, transformer=replace(sizes.transformer, schedule=schedule.text, codes=codes))

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch", "draws", "workers", "codes")
        check_at_least(self, 0, "validation_episodes")
        if self.shift <= 0:
            raise ValueError(f"shift {self.shift} is not above 0")


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    history: History
    coming: Float[Tensor, "batch section channel height width"]
    """the true section"""
    actions: Int[Tensor, "batch step factor"]
    own: int
    """rows (the last ones) whose history the model has made itself"""
    weights: Float[Tensor, " batch"]
    """what each row counts"""


class ModelTrainer:
    """Makes batches, takes steps; one history pass serves all noise draws and the model's own next frame."""

    def __init__(
        self,
        model: WorldTransformer,
        episodes: LatentEpisodes,
        recall: BatchRecall,
        odometer: Odometer,
        sizes: Preset,
        settings: ModelTraining,
        processes: Processes,
    ) -> None:
        self.model, self.episodes, self.recall, self.odometer = model, episodes, recall, odometer
        self.sizes, self.settings, self.processes = sizes, settings, processes
        self.reach, self.section = sizes.schedule.recent_frames, sizes.schedule.section
        self.state = TrainingState(
            model, make_optimizers(model, settings.learning_rate, settings.weight_decay)
        )
        self.parameters = list(model.parameters())
        self.cells = torch.stack(
            [tail_cells(each.float(), sizes.schedule.tail).half() for each in episodes.latents]
        )
        self.own: SelfRollout | None = None
        self._make_next = Graphed(self._sample)

    def take_step(self, step: int) -> dict[str, Tensor]:
        """One optimiser step; the numbers drawn depend on seed, step and process alone."""
        generator = self.processes.generator(self.settings.seed, step)
        batch = self._batch(step, generator)
        own, device = batch.own, self.processes.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            cache = self.model.encode_history(self.model.pack(batch.history), batch.history.sigma)
            errors = self._errors(cache, batch.coming, batch.actions, generator)
            loss = (errors.mean(1) * batch.weights).sum() / batch.weights.sum()
        for optimizer in self.state.optimizers:
            optimizer.zero_grad()
        loss.backward()
        if own and self.own is not None:
            self._advance(cache, batch.actions, own, generator)
        self.processes.average_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.state.optimizers:
            optimizer.step()
        self.state.average.update(self.model, step)
        metrics = {"loss": loss.detach(), "gradient_norm": norm.detach()}
        parts = errors.detach().mean(1)
        count = len(parts) - own
        metrics["loss_true_history"] = parts[:count].mean()
        if own:
            metrics["loss_own_history"] = parts[count:].mean()
            metrics["own_weight"] = batch.weights[count:].mean()
        return metrics

    def _errors(
        self, cache: HistoryCache, coming: Tensor, actions: Tensor, generator: torch.Generator
    ) -> Float[Tensor, "batch draw"]:
        """Mean squared error of the velocity, one value a noise draw."""
        draws = self.settings.draws
        sigma = draw_sigmas(len(coming), draws, self.settings.shift, generator)
        noise = torch.randn(len(coming), draws, *coming.shape[1:], generator=generator, device=coming.device)
        noisy, velocity = noisy_and_velocity(coming, sigma, noise)
        predicted = self.model.denoise_draws(noisy, sigma, actions, cache)
        return (predicted.float() - velocity).square().flatten(2).mean(2)

    @torch.no_grad()
    def _advance(self, cache: HistoryCache, actions: Tensor, own: int, generator: torch.Generator) -> None:
        """The model's own next section, from the history pass that training has just made."""
        assert self.own is not None
        part = cache.newest_rows(own)
        shape = (own, self.section, *self.own.recent.shape[2:])
        noise = torch.randn(shape, generator=generator, device=generator.device)
        self.own.advance(self._make_next(noise, actions[-own:], part))

    def _sample(self, noise: Tensor, actions: Tensor, cache: HistoryCache) -> Tensor:
        device = self.processes.device.type
        # Without autocast's cache, or a CUDA graph would go on with the weights of the step it was captured in.
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            return sample(self.model, noise, actions, cache, self.settings.own_frames.flow(self.sizes.flow))

    def _batch(self, step: int, generator: torch.Generator) -> Batch:
        settings = self.settings
        own = (
            int(settings.batch * settings.own_frames.share) if step >= settings.own_frames.after_steps else 0
        )
        pasts = self._true_pasts(random_moments(self.episodes, settings.batch - own, self.section, generator))
        sigma = self._history_sigma(
            settings.batch - own, settings.clean_share, settings.history_noise, generator
        )
        if own:
            if self.own is None or step % settings.own_frames.length == 0:
                length = settings.own_frames.length - step % settings.own_frames.length
                self.own = SelfRollout(
                    self.episodes, self.recall.marks, self.odometer, own, self.reach, self.section, length,
                    generator,
                )  # fmt: skip
            pasts = pasts.with_more(self.own.pasts())
            sigma = torch.cat((sigma, self._history_sigma(own, 0.5, 0.2, generator)))
        coming = coming_latents(self.episodes.latents, pasts.moments, self.section)
        actions = recent_actions(self.episodes.actions, pasts.moments, self.reach, self.section)
        picks = self.recall.pick(pasts, actions, own, generator)
        weights = torch.ones_like(sigma)
        if own and self.own is not None:
            least = settings.own_frames.unknown
            weights[-own:] = least + (1 - least) * self.own.known(picks.last(own))
        return Batch(self._history(pasts, actions, sigma, picks, generator), coming, actions, own, weights)

    def _true_pasts(self, moments: Moments) -> Pasts:
        marks, rows = self.recall.marks, moments.episode[:, None]
        recent, present = recent_latents(self.episodes.latents, moments, self.reach)
        poses = marks.recent_poses(moments, self.reach)
        return Pasts(
            moments, recent, present, poses, marks.expected[rows, moments.frames(0, self.section - 1)]
        )

    def _history_sigma(
        self, count: int, clean_share: float, highest: float, generator: torch.Generator
    ) -> Float[Tensor, " batch"]:
        draw = torch.rand(2, count, generator=generator, device=generator.device)
        return torch.where(draw[0] < clean_share, 0.0, highest * draw[1])

    def _history(
        self,
        pasts: Pasts,
        actions: Int[Tensor, "batch step factor"],
        sigma: Tensor,
        picks: Picks,
        generator: torch.Generator,
    ) -> History:
        """What the model sees of the past, with noise of the told level on everything."""
        moments, recent, poses, marks = pasts.moments, pasts.recent, pasts.poses, self.recall.marks
        schedule, rows = self.sizes.schedule, moments.episode[:, None]
        recalled = self.episodes.latents[rows, picks.frames].float()
        recalled_poses = self.odometer.registered(
            recent[:, -1], poses[:, -1], recalled, marks.poses[rows, picks.frames]
        )
        first = first_frames(self.episodes.latents, marks.poses, moments, schedule)
        tail = tail_frames(self.cells, moments, schedule)
        history = History(
            recent=recent, recent_present=pasts.present, recent_actions=actions[:, : self.reach],
            recent_poses=poses,
            recalled=AgedFrames(
                latents=recalled, present=picks.present,
                ages=(moments.time[:, None] - picks.frames).abs(), poses=recalled_poses,
            ),
            first=first, tail=tail, section_poses=pasts.expected, sigma=sigma,
        )  # fmt: skip
        shape = len(moments), history.frames, *recent.shape[2:]
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return self.model.seen(history, noise)
