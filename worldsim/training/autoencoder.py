"""`worldsim train autoencoder`: frames -> latents -> frames."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from models.autoencoder import FrameAutoencoder, to_signed
from models.discriminator import DiscriminatorSettings, PatchDiscriminator
from worldsim.episode import list_episodes
from worldsim.errors import check_at_least
from worldsim.presets import preset
from worldsim.training.adversary import Adversary
from worldsim.training.components import keep_component, start_weights
from worldsim.training.data import own_share, sample_frames
from worldsim.training.loop import LoopSettings, TrainingLoop
from worldsim.training.processes import Processes
from worldsim.training.state import TrainingState


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining:
    """Train the autoencoder on recorded frames."""

    data: Path
    """folder of recorded episodes"""
    out: Path
    """folder of this training: states, logs and the checkpoint it grows into; run again to go on"""
    preset: str = "default"
    """tiny, default or large"""
    warm_start: Path | None = None
    """checkpoint folder whose weights training begins with"""
    freeze_encoder: bool = False
    """train the decoder alone: latents stay as the world model of `warm_start` knows them"""
    loop: LoopSettings = field(default_factory=LoopSettings)
    frames: int = 240_000
    """frames kept in memory, over all processes, drawn evenly from the episodes"""
    batch: int = 64
    """frames a step and process"""
    learning_rate: float = 1e-3
    """highest learning rate"""
    latent_noise: float = 0.1
    """noise on the raw latents, so that the decoder forgives the world model's small errors"""
    edge_weight: float = 0.5
    """weight of the differences between neighbouring pixels: sharpness"""
    half_scale_weight: float = 0.1
    """weight of decoding half-size latents to half-size frames (EQ-VAE, Kouzelis et al. 2025): smoother latents"""
    adversarial_weight: float = 0.02
    """weight of the adversarial loss, the others' about 1: texture that looks real although no latent tells it exactly;
    0 trains without a discriminator"""
    adversarial_after: int = 500
    """steps until the discriminator, which trains from the beginning, is listened to"""
    discriminator_learning_rate: float = 2e-4
    """highest learning rate of the discriminator"""
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    seed: int = 0
    """chooses weights and batches"""
    workers: int = 8
    """processes that read episodes, a training process"""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "frames", "batch", "workers")
        check_at_least(self, 0, "adversarial_weight", "adversarial_after")
        if self.freeze_encoder and self.warm_start is None:
            raise ValueError(
                "freeze encoder without a warm start keeps random latents; give --warm-start CHECKPOINT"
            )


def autoencoder_loss(
    model: FrameAutoencoder,
    truth: Float[Tensor, "batch 3 height width"],
    settings: AutoencoderTraining,
    generator: torch.Generator,
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch 3 height width"]]:
    """The reconstruction loss and the frames made, all frames in [-1, 1]."""
    raw = model.tiny.encoder(truth).float()
    noise = torch.randn(raw.shape, generator=generator, device=raw.device)
    made = model.tiny.decoder(raw + settings.latent_noise * noise).float()
    error = made - truth
    squared = error.square().mean()
    edges = _edges(error).abs().mean() if settings.edge_weight else 0.0
    half = model.tiny.decoder(functional.avg_pool2d(raw, 2)).float() - functional.avg_pool2d(truth, 2)
    loss = squared + 0.2 * error.abs().mean() + settings.edge_weight * 0.2 * edges
    loss = loss + settings.half_scale_weight * half.square().mean() + 1e-4 * raw.square().mean()
    return loss, made


def _edges(image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " difference"]:
    """Differences between neighbouring pixels along both axes."""
    return torch.cat(
        ((image[..., 1:, :] - image[..., :-1, :]).flatten(), (image[..., 1:] - image[..., :-1]).flatten())
    )


@torch.no_grad()
def picture_metrics(
    made: Float[Tensor, "batch 3 height width"], truth: Float[Tensor, "batch 3 height width"]
) -> dict[str, Float[Tensor, ""]]:
    """PSNR, and how much gradient energy the frames made have for each unit of the true frames'."""
    squared = (made - truth).square().mean()
    energies = [_edges(image).square().mean() for image in (made.clamp(-1, 1), truth)]
    return {
        "psnr_db": 10 * torch.log10(4 / squared),
        "sharpness_ratio": energies[0] / energies[1].clamp_min(1e-6),
    }


class AutoencoderTrainer:
    """Takes steps of the autoencoder and of the discriminator that judges its frames."""

    def __init__(
        self,
        model: FrameAutoencoder,
        discriminator: PatchDiscriminator | None,
        settings: AutoencoderTraining,
        processes: Processes,
    ) -> None:
        self.model, self.settings, self.processes = model, settings, processes
        model.tiny.encoder.requires_grad_(not settings.freeze_encoder)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        self.adversary: Adversary | None = None
        if discriminator is not None:
            self.adversary = Adversary(
                discriminator,
                settings.discriminator_learning_rate,
                settings.adversarial_weight,
                settings.adversarial_after,
                processes,
            )
        self.state = TrainingState(model, [self.optimizer], self.adversary)

    def take_step(self, frames: UInt8[Tensor, "frame height width 3"], step: int) -> dict[str, Tensor]:
        """One step of both networks on a draw of the frames, which depends on seed, step and process alone."""
        device, settings = self.processes.device, self.settings
        generator = self.processes.generator(settings.seed, step)
        pick = torch.randint(len(frames), (settings.batch,), generator=generator, device=device)
        truth = to_signed(frames[pick]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, made = autoencoder_loss(self.model, truth, settings, generator)
        metrics = {"loss": loss.detach(), **picture_metrics(made, truth)}
        objective = loss
        if self.adversary is not None:
            term, judged = self.adversary.judge(made, truth, step)
            objective = loss + term
            metrics |= judged
        self.optimizer.zero_grad()
        objective.backward(inputs=self.parameters)
        self.processes.average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.state.average.update(self.model, step)
        return metrics


def train_autoencoder(settings: AutoencoderTraining) -> None:
    """Train, fit the latent statistics, and write `autoencoder/` into the run's checkpoint folder."""
    processes = Processes.join(settings.device)
    paths = own_share(list_episodes(settings.data), processes.rank, processes.count)
    torch.manual_seed(settings.seed)
    model = FrameAutoencoder.of(preset(settings.preset).autoencoder)
    start_weights(model, "autoencoder", settings.warm_start)
    judge = PatchDiscriminator.of(settings.discriminator) if settings.adversarial_weight else None
    for network in (model, judge):
        if network is not None:
            network.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            processes.same_start(network)
    trainer = AutoencoderTrainer(model, judge, settings, processes)
    loop = TrainingLoop("autoencoder", settings.out, trainer.state, settings.loop, processes)
    share = settings.frames // processes.count
    frames = sample_frames(paths, share, settings.workers, processes.device, processes.main)

    def preview(writer: SummaryWriter | None, step: int) -> None:
        if writer is not None:
            writer.add_image("truth_above_made", _preview(model, frames[:8]), step, dataformats="HWC")

    loop.train(partial(trainer.take_step, frames), preview)
    finish_autoencoder(model, trainer.state, frames, settings, processes)


@torch.no_grad()
def finish_autoencoder(
    model: FrameAutoencoder,
    state: TrainingState,
    frames: UInt8[Tensor, "frame height width 3"],
    settings: AutoencoderTraining,
    processes: Processes,
) -> None:
    """Take the averaged weights, fit latent statistics on a sample of frames, and write the part."""
    state.average.copy_to(model)
    if not settings.freeze_encoder:
        sample = frames[:: max(1, len(frames) // 2048)]
        model.fit_statistics(torch.cat([model.tiny.encoder(to_signed(chunk)) for chunk in sample.split(256)]))
    model.to(memory_format=torch.contiguous_format)
    keep_component(model, "autoencoder", settings.out, processes)
    processes.leave()


@torch.no_grad()
def _preview(
    model: FrameAutoencoder, frames: UInt8[Tensor, "batch height width 3"]
) -> UInt8[Tensor, "rows cols 3"]:
    made = model.tiny.decoder(model.tiny.encoder(to_signed(frames)))
    made_u8 = ((made + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    rows = [torch.cat(list(row), 1) for row in (frames, made_u8)]
    return torch.cat(rows, 0).cpu()
