"""`worldsim train autoencoder`: frames -> latents -> frames."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from models.autoencoder import FrameAutoencoder, to_signed
from worldsim.episode import list_episodes
from worldsim.errors import check_at_least
from worldsim.presets import preset
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
    start: Path | None = None
    """warm start from this checkpoint folder"""
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
    texture_weight: float = 0.005
    """weight of the energy of fine texture, compared patch by patch: without it the decoder paints noise away"""
    half_scale_weight: float = 0.1
    """weight of decoding half-size latents to half-size frames (EQ-VAE, Kouzelis et al. 2025): smoother latents"""
    seed: int = 0
    """chooses weights and batches"""
    workers: int = 8
    """processes that read episodes, a training process"""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "frames", "batch", "workers")


def autoencoder_loss(
    model: FrameAutoencoder,
    frames_u8: UInt8[Tensor, "batch height width 3"],
    settings: AutoencoderTraining,
    generator: torch.Generator,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss and the mean squared error on [-1, 1]."""
    truth = to_signed(frames_u8).contiguous(memory_format=torch.channels_last)
    raw = model.tiny.encoder(truth).float()
    noise = torch.randn(raw.shape, generator=generator, device=raw.device)
    made = model.tiny.decoder(raw + settings.latent_noise * noise).float()
    error = made - truth
    squared = error.square().mean()
    edges = _edges(error).abs().mean() if settings.edge_weight else 0.0
    half = model.tiny.decoder(functional.avg_pool2d(raw, 2)).float() - functional.avg_pool2d(truth, 2)
    texture = (_texture(made) - _texture(truth)).abs().mean()
    loss = squared + 0.2 * error.abs().mean() + settings.edge_weight * 0.2 * edges
    loss = loss + settings.texture_weight * texture
    loss = loss + settings.half_scale_weight * half.square().mean() + 1e-4 * raw.square().mean()
    return loss, squared.detach()


def _texture(
    image: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 1 patch_height patch_width"]:
    """Logarithm of the mean squared gradient of every 8 × 8 patch."""
    across = (image[..., :-1, 1:] - image[..., :-1, :-1]).square()
    down = (image[..., 1:, :-1] - image[..., :-1, :-1]).square()
    return torch.log(functional.avg_pool2d((across + down).mean(1, keepdim=True), 8, ceil_mode=True) + 1e-3)


def _edges(image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, " difference"]:
    """Differences between neighbouring pixels along both axes."""
    return torch.cat(
        ((image[..., 1:, :] - image[..., :-1, :]).flatten(), (image[..., 1:] - image[..., :-1]).flatten())
    )


def train_autoencoder(settings: AutoencoderTraining) -> None:
    """Train, fit the latent statistics, and write `autoencoder/` into the run's checkpoint folder."""
    processes = Processes.join(settings.device)
    paths = own_share(list_episodes(settings.data), processes.rank, processes.count)
    torch.manual_seed(settings.seed)
    model = FrameAutoencoder.of(preset(settings.preset).autoencoder)
    start_weights(model, "autoencoder", settings.start)
    model.to(processes.device, memory_format=torch.channels_last)
    processes.same_start(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
    )
    state = TrainingState(model, [optimizer])
    loop = TrainingLoop("autoencoder", settings.out, state, settings.loop, processes)
    share = settings.frames // processes.count
    frames = sample_frames(paths, share, settings.workers, processes.device, processes.main)
    parameters = list(model.parameters())

    def take_step(step: int) -> dict[str, Tensor]:
        generator = processes.generator(settings.seed, step)
        pick = torch.randint(len(frames), (settings.batch,), generator=generator, device=processes.device)
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=processes.device.type == "cuda"):
            loss, squared = autoencoder_loss(model, frames[pick], settings, generator)
        optimizer.zero_grad()
        loss.backward()
        processes.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        state.average.update(model, step)
        return {"loss": loss.detach(), "psnr_db": 10 * torch.log10(4 / squared)}

    def preview(writer: SummaryWriter, step: int) -> None:
        writer.add_image("truth_above_made", _preview(model, frames[:8]), step, dataformats="HWC")

    loop.train(take_step, preview)
    finish_autoencoder(model, state, frames, settings, processes)


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
    raw = torch.cat(
        [model.tiny.encoder(to_signed(chunk)) for chunk in frames[:: max(1, len(frames) // 2048)].split(256)]
    )
    model.fit_statistics(raw)
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
