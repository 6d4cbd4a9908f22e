"""How the odometer learns to tell from two views where one lies from the other."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from models.history import add_noise
from retrieval.motion import offset_from
from retrieval.odometer import Odometer
from retrieval.offset import OFFSET_SCALE
from worldsim.recall import PLACE, score_places
from worldsim.training.covisibility import CovisibilitySettings, covisibility
from worldsim.training.data import LatentEpisodes
from worldsim.training.offsets import mean_of, offset_loss

CHANCE = 10.0
"""weight of chance against nearness where views are drawn to be registered: six of ten pairs or more show one place, about
as many as recall finds at play"""
APART = 20
"""steps between the two frames at least: those in between are in the recent context, and never recalled"""
SAME_PLACE = 0.1
"""covisibility above which two views show one place"""
DRIFT_UNITS = 200.0
"""greatest standard deviation of told offsets, in map units: they drift so far in some 300 steps"""


def draw_views(
    episodes: LatentEpisodes, batch: int, generator: torch.Generator
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Episodes and two frames of each that mostly look at one place: as the oracle ranks them, with some chance."""
    device = generator.device
    episode = torch.randint(len(episodes), (batch,), generator=generator, device=device)
    lengths, poses = episodes.lengths[episode], episodes.poses[episode][..., [0, 1, 3]]
    time = (torch.rand(batch, generator=generator, device=device) * lengths).long()
    numbers = torch.arange(poses.shape[1], device=device)
    near = score_places(poses, poses[torch.arange(batch, device=device), time], PLACE)
    chance = torch.rand(near.shape, generator=generator, device=device)
    allowed = ((numbers - time[:, None]).abs() >= APART) & (numbers < lengths[:, None])
    return episode, time, (near + CHANCE * chance).masked_fill(~allowed, -torch.inf).argmax(1)


def registration_loss(
    model: Odometer, episodes: LatentEpisodes, batch: int, noise: float, generator: torch.Generator
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Do two views show one place (cross entropy), and where does one lie from the other then (distance)?

    Told offsets are off by up to DRIFT_UNITS, latents under noise up to that level. Also the mean errors of both in map
    units, and the share of wrong answers.
    """
    device = generator.device
    episode, time, other = draw_views(episodes, batch, generator)
    views = torch.stack((episodes.latents[episode, time], episodes.latents[episode, other]), 1).float()
    drawn = torch.randn(views.shape, generator=generator, device=device)
    level = noise * torch.rand(batch, generator=generator, device=device).square()
    views = add_noise(views, level, drawn)
    here, there = episodes.poses[episode, time], episodes.poses[episode, other]
    true = offset_from(there[:, [0, 1, 3]], here[:, [0, 1, 3]])
    turn = (there[:, 3:] - here[:, 3:] + 180) % 360 - 180
    drift = DRIFT_UNITS ** torch.rand(batch, 1, generator=generator, device=device)
    told = true + drift * torch.randn(batch, 2, generator=generator, device=device)
    found = model.register(views[:, 0], views[:, 1], torch.cat((told, turn), 1))
    rooms = episodes.rooms[episode[:, None], torch.stack((time, other), 1)].long()
    seen = covisibility(there[:, None], rooms[:, 1:], here, rooms[:, 0], CovisibilitySettings())[:, 0]
    same = seen > SAME_PLACE
    gate = functional.binary_cross_entropy_with_logits(found.logit, same.float())
    kept = torch.where(found.logit[:, None] > 0, found.offset, told)
    errors = {
        "error_told": mean_of((told - true).norm(dim=1), same),
        "error_registered": mean_of((kept - true).detach().norm(dim=1), same),
        "wrong_place": ((found.logit > 0) != same).float().mean(),
    }
    return gate + offset_loss(found, true, same, OFFSET_SCALE), errors
