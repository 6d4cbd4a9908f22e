"""Foresight in training: past frames that play would ask, wrong as play would have them, and what they should tell."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from models.history import add_noise
from retrieval.foresight import Surroundings, Witnesses, choose_witnesses
from retrieval.odometer import Odometer
from worldsim.training.data import LatentEpisodes
from worldsim.training.offsets import mean_of

ASTRAY = 6.0
"""greatest standard deviation of where a frame of ASTRAY_AGE is believed to have been seen from, in map units"""
ASTRAY_AGE = 60
"""frames: younger ones have drifted less, older ones no more, because places are recognised"""


def blocked_loss(
    around: Surroundings, blocked: Bool[Tensor, "batch point"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Could a player stand at the points that witnesses saw (cross entropy)? Also the share of right answers.

    Bumps are rare: this teaches in every frame how near walls are.
    """
    logit, shown = around.told[..., 0], around.shown.flatten()
    wrong = functional.binary_cross_entropy_with_logits(logit, blocked.float(), reduction="none")
    right = (logit.detach() > 0) == blocked
    return mean_of(wrong.flatten(), shown), mean_of(right.float().flatten(), shown)


def draw_witnesses(
    odometer: Odometer,
    episodes: LatentEpisodes,
    headings_deg: Float[Tensor, "episode time"],
    episode: Int[Tensor, " batch"],
    time: Int[Tensor, " batch"],
    place: Float[Tensor, "batch 2"],
    noise: float,
    generator: torch.Generator,
) -> Witnesses:
    """Frames before `time` that saw a place; their latents under noise up to a level, their places a little off."""
    device, batch = generator.device, len(episode)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    poses = torch.cat((episodes.poses[episode][..., :2], headings_deg[episode][..., None]), -1)
    ages = time[:, None] - torch.arange(poses.shape[1], device=device)
    frames, present = choose_witnesses(place, poses, ages, ages > 0, odometer.config.view_deg)
    rows = torch.arange(batch, device=device)[:, None]
    latents, seen_from = episodes.latents[episode[:, None], frames].float(), poses[rows, frames]
    drift = ASTRAY * uniform(batch, 1).square() * (ages[rows, frames] / ASTRAY_AGE).clamp(0, 1)
    off = drift[..., None] * torch.randn(*frames.shape, 2, generator=generator, device=device)
    drawn = torch.randn(latents.shape, generator=generator, device=device)
    noisy = add_noise(latents, noise * uniform(batch).square(), drawn)
    return Witnesses(
        scans=odometer.scans(noisy.flatten(0, 1)).unflatten(0, frames.shape),
        poses=torch.cat((seen_from[..., :2] + off, seen_from[..., 2:]), -1),
        present=present,
    )
