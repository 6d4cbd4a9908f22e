"""Steps of the world model's training: one history pass for several noise draws, and the model's own next frames."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.discriminator import DiscriminatorSettings, PatchDiscriminator
from models.flow import Draft, draw_sigmas, noisy_and_velocity, sample
from models.graphed import Graphed
from models.history import History
from models.history_cache import HistoryCache
from models.transformer import WorldTransformer
from worldsim.presets import Preset
from worldsim.training.adversary import Adversary
from worldsim.training.batches import Batches
from worldsim.training.model_training import ModelTraining
from worldsim.training.optimizers import make_optimizers
from worldsim.training.processes import Processes
from worldsim.training.sharding import clipped_norm, give_back, is_sharded
from worldsim.training.state import TrainingState

LATENT_PATCHES = DiscriminatorSettings(strides=(1, 1, 1))
"""latents are an eighth of a frame: no stage of their discriminator need be smaller"""


def make_adversary(model: WorldTransformer, settings: ModelTraining, processes: Processes) -> Adversary:
    """What tells the model's latents from true ones, the same in every process."""
    discriminator = PatchDiscriminator.of(LATENT_PATCHES, model.config.latent_channels).to(processes.device)
    processes.same_start(discriminator)
    return Adversary(
        discriminator,
        settings.discriminator_learning_rate,
        settings.adversarial_weight,
        settings.adversarial_after,
        processes,
    )


class ModelTrainer:
    """Takes steps; one history pass serves all noise draws."""

    def __init__(
        self,
        model: WorldTransformer,
        batches: Batches,
        sizes: Preset,
        settings: ModelTraining,
        processes: Processes,
    ) -> None:
        self.model, self.sizes, self.settings, self.processes = model, sizes, settings, processes
        self.batches = batches
        self.adversary = make_adversary(model, settings, processes) if settings.adversarial_weight else None
        self.optimizers = make_optimizers(model, settings.learning_rate, settings.weight_decay)
        self.state = TrainingState(model, self.optimizers, self.adversary)
        self.parameters = list(model.parameters())
        self.sharded = is_sharded(model)
        self.own_flow = settings.own_frames.flow(sizes.flow)
        # What gathers weights from other processes is no CUDA graph.
        self._make_next = self._sample if self.sharded else Graphed(self._sample)

    def take_step(self, step: int) -> dict[str, Tensor]:
        """One optimiser step; the numbers drawn depend on seed, step and process alone."""
        generator = self.processes.generator(self.settings.seed, step)
        batch = self.batches.draw(step, generator)
        own, device = batch.own, self.processes.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            cache = self.model.encode_history(self.model.pack(batch.history), batch.history.sigma)
            errors, guess = self._errors(cache, batch.coming, batch.actions, generator)
            loss = (errors.mean(1) * batch.weights).sum() / batch.weights.sum().clamp(min=1)
        objective, judged = loss, dict[str, Tensor]()
        if self.adversary is not None:
            term, judged = self.adversary.judge(guess.flatten(0, 1), batch.coming.flatten(0, 1), step)
            objective = loss + term
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        objective.backward()
        if own:
            self._advance(batch.own_history, batch.actions[-own:], batch.coming[-own:], generator)
        if not self.sharded:
            self.processes.average_gradients(self.parameters)
        norm = clipped_norm(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.state.average.update(self.model, step)
        metrics = {"loss": loss.detach(), "gradient_norm": norm, **judged}
        parts = errors.detach().mean(1)
        count = len(parts) - own
        metrics["loss_true_history"] = parts[:count].mean()
        if own:
            metrics["loss_own_history"] = parts[count:].mean()
            metrics["own_weight"] = batch.weights[count:].mean()
        return metrics

    def _errors(
        self, cache: HistoryCache, coming: Tensor, actions: Tensor, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch draw"], Float[Tensor, "batch section channel height width"]]:
        """Mean squared error of the velocity, one value a noise draw; the section as seen in the draw of least noise."""
        draws = self.settings.draws
        sigma = draw_sigmas(len(coming), draws, self.settings.shift, generator)
        noise = torch.randn(len(coming), draws, *coming.shape[1:], generator=generator, device=coming.device)
        noisy, velocity = noisy_and_velocity(coming, sigma, noise)
        predicted = self.model.denoise_draws(noisy, sigma, actions, cache)
        # x_0 = x_sigma − sigma v; the first stratum of levels is the lowest.
        guess = noisy[:, 0] - sigma[:, 0, None, None, None, None] * predicted[:, 0].float()
        return (predicted.float() - velocity).square().flatten(2).mean(2), guess

    @torch.no_grad()
    def _advance(self, history: History, actions: Tensor, coming: Tensor, generator: torch.Generator) -> None:
        """The model's own next sections, drawn as at play; those of held histories from the true ones, `coming`."""
        rollout = self.batches.own
        assert rollout is not None
        noise, seen = self._own_draw(history, rollout.section, generator)
        rollout.advance(self._make_next(noise, actions, seen, rollout.held.draft(coming)))
        give_back(self.model)

    def _own_draw(
        self, history: History, section: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch section channel height width"], History]:
        """Noise of the model's own next sections, and their histories as play sees them, one for each level."""
        levels = self.own_flow.history_levels(0.0)
        shape = len(history.sigma), section + history.frames, *history.recent.shape[2:]
        noise, veils = torch.randn(shape, generator=generator, device=generator.device).split(
            (section, history.frames), 1
        )
        return noise, self.model.seen(history.under(*levels), veils.repeat(len(levels), 1, 1, 1, 1))

    def _sample(self, noise: Tensor, actions: Tensor, history: History, draft: Draft) -> Tensor:
        device = self.processes.device.type
        # Without autocast's cache, or a CUDA graph would go on with the weights of the step it was captured in.
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda", cache_enabled=False):
            cache = self.model.encode_history(self.model.pack(history), history.sigma)
            return sample(self.model, noise, actions, cache, self.own_flow, draft)
