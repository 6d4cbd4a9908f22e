"""Flow matching: noise levels and loss for training, Euler sampling for play."""

from dataclasses import dataclass

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float, Int
from torch import Tensor

from models.history import add_noise
from models.history_cache import HistoryCache
from models.transformer import WorldTransformer


@dataclass(frozen=True, kw_only=True)
class FlowSettings:
    """Noise levels at play. ValueError if the shift is not above 0, there is no step or guidance is out of range."""

    shift: float = 2.0
    """sigma = shift u / (1 + (shift − 1) u), of evenly spaced u (Esser et al. 2024, eq. 23); the lower, the longer the
    first step: single frames come nearer to the truth's mean, long rollouts wash out sooner"""
    denoising_steps: int = 8
    """Euler steps a section"""
    layout_noise: float = 0.0
    """level of the noise that the history is seen under, and told of, while the layout is decided (Chen et al. 2024,
    Diffusion Forcing; fractional history guidance, Song et al. 2025). What a model that has trained on its own frames
    doubts, and draws anew every time, it keeps where noise leaves no sign of whose frames they are. 0 leaves it out,
    and with it a second pass over the history"""
    layout_above: float = 0.5
    """noise level of the section down to which that is so; below, detail comes from the history as it is"""
    guidance: float = 0.0
    """weight of history guidance: velocity + weight × (velocity − velocity after a veiled history), which keeps long
    rollouts sharp (Song et al. 2025, History-Guided Video Diffusion; classifier-free guidance, Ho and Salimans 2022);
    0 leaves it out, and with it one more pass over the history"""
    veil: float = 0.5
    """level of the noise that veils that history, told to the model"""
    guided_above: float = 0.4
    """noise level down to which guidance works (Kynkäänniemi et al. 2024): layout is decided above; below, what guidance
    adds to texture would be taken for history by the next step, and grow without bound where a player stands still"""

    def __post_init__(self) -> None:
        if self.shift <= 0:
            raise ValueError(f"shift {self.shift} of noise levels is not above 0")
        if self.denoising_steps < 1:
            raise ValueError(f"{self.denoising_steps} denoising steps; use at least 1")
        if self.guidance < 0:
            raise ValueError(f"guidance {self.guidance} is below 0, which leaves it out; use that or more")
        if not 0 < self.veil <= 1:
            raise ValueError(f"veil {self.veil} of guidance is not above 0 and up to 1")
        for name in ("layout_noise", "layout_above", "guided_above"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is no noise level from 0 to below 1")

    @property
    def text(self) -> str:
        """For a page: how sections are drawn."""
        layout = f", layout after history noise {self.layout_noise:g}" if self.layout_noise else ""
        guided = f", history guidance {self.guidance:g}" if self.guidance else ""
        return f"{self.denoising_steps} denoising steps{layout}{guided}"

    def scheduler(self) -> FlowMatchEulerDiscreteScheduler:
        """Set to the denoising steps' noise levels, from 1 down to 0."""
        scheduler = FlowMatchEulerDiscreteScheduler(shift=self.shift)
        # Given the number alone, diffusers ends on a step from sigma 0.004 to 0, which changes nothing.
        even = torch.linspace(1, 1 / self.denoising_steps, self.denoising_steps)
        # Levels stay on the CPU and the scheduler is told where it begins, so that nothing waits for the device.
        scheduler.set_timesteps(sigmas=even.tolist(), device="cpu")
        scheduler.set_begin_index(0)
        return scheduler

    def history_levels(self, noise: float) -> tuple[float, ...]:
        """Noise levels of the histories that `sample` needs where one is seen under `noise`: veiled, layout's, that one."""
        veiled = (max(noise, self.veil),) if self.guidance else ()
        layout = (max(noise, self.layout_noise),) if self.layout_noise else ()
        return *veiled, *layout, noise


def draw_sigmas(
    batch: int, draws: int, shift: float, generator: torch.Generator
) -> Float[Tensor, "{batch} {draws}"]:
    """Noise levels in (0, 1), one stratum a draw so that each history sees low and high noise.

    Above 1, `shift` puts more weight on high noise (Esser et al. 2024, eq. 23).
    """
    offset = torch.rand(batch, draws, generator=generator, device=generator.device)
    uniform = (torch.arange(draws, device=generator.device) + offset) / draws
    return shift * uniform / (1 + (shift - 1) * uniform)


def noisy_and_velocity(
    clean: Float[Tensor, "batch section channel height width"],
    sigma: Float[Tensor, "batch draw"],
    noise: Float[Tensor, "batch draw section channel height width"],
) -> tuple[
    Float[Tensor, "batch draw section channel height width"],
    Float[Tensor, "batch draw section channel height width"],
]:
    """x_sigma = (1 − sigma) x_0 + sigma noise and its velocity noise − x_0 (Lipman et al. 2023; Liu et al. 2022)."""
    repeated = clean[:, None].expand_as(noise)
    noisy = add_noise(repeated.flatten(0, 1), sigma.flatten(), noise.flatten(0, 1)).view_as(noise)
    return noisy, noise - repeated


@dataclass(frozen=True)
class Draft:
    """What a section is drawn from instead of noise alone (SDEdit, Meng et al. 2022)."""

    latents: Float[Tensor, "batch section channel height width"]
    begin: Int[Tensor, " batch"]
    """the denoising step that a row begins with, the draft under its level of noise; 0: nothing of the draft is left"""


@torch.no_grad()
def sample(
    transformer: WorldTransformer,
    noise: Float[Tensor, "batch section channel height width"],
    actions: Int[Tensor, "batch step factor"],
    cache: HistoryCache,
    settings: FlowSettings,
    draft: Draft | None = None,
) -> Float[Tensor, "batch section channel height width"]:
    """Clean latents from noise by Euler steps on diffusers' scheduler; the history cache serves every step.

    The cache has the batch's histories once for each of `FlowSettings.history_levels`, in that order. With a `draft` rows
    begin later, from the draft under the noise.
    """
    scheduler = settings.scheduler()
    latents, rows = noise.float(), len(noise)
    histories = [cache.rows(slice(i, i + rows)) for i in range(0, len(cache.sigma), rows)]
    clear, layout = histories[-1], histories[-2 if settings.layout_noise else -1]
    for i, timestep in enumerate(scheduler.timesteps):
        level = float(scheduler.sigmas[i])
        sigma = torch.full((rows,), level, device=noise.device)
        if draft is not None:
            latents = torch.where(
                (draft.begin == i)[:, None, None, None, None], add_noise(draft.latents, sigma, noise), latents
            )
        noisy = latents.to(transformer.dtype)
        history = layout if level > settings.layout_above else clear
        velocity = transformer.denoise(noisy, sigma, actions, history).float()
        if settings.guidance and level > settings.guided_above:
            veiled = transformer.denoise(noisy, sigma, actions, histories[0]).float()
            velocity = velocity + settings.guidance * (velocity - veiled)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents
