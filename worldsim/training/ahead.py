"""Frames behind the section in training: those of a planned end, or in inverted sampling those made before it."""

from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.history import AgedFrames
from models.schedule import Schedule
from worldsim.errors import check_at_least
from worldsim.training.data import LatentEpisodes
from worldsim.training.moments import Moments, Pasts
from worldsim.training.recalling import EpisodeMarks


@dataclass(frozen=True, kw_only=True)
class AheadSettings:
    """How far ahead training plans, where the schedule has frames behind the section."""

    longest: int = 96
    """most frames from a section to a planned end"""
    unplanned: float = 0.25
    """part of the moments that are an end themselves: made from far before, or with nothing behind them"""
    endless: float = 0.25
    """part of the moments that have no end, as where nobody plans one"""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "longest")
        if min(self.unplanned, self.endless) < 0 or self.unplanned + self.endless > 1:
            raise ValueError(
                f"parts of the moments, unplanned {self.unplanned} and endless {self.endless}, lie below 0 or add up to "
                "more than 1"
            )


@dataclass(frozen=True)
class Ahead:
    """What the model is told of frames behind its section."""

    coming: AgedFrames
    coming_actions: Int[Tensor, "batch coming factor"]
    last: AgedFrames


def draw_gaps(moments: Moments, settings: AheadSettings, generator: torch.Generator) -> Int[Tensor, " batch"]:
    """Frames between what is known and each moment: 0 for most, else up to the longest, evenly over their logarithm."""
    far = _distances(len(moments), settings, generator)
    end = torch.rand(len(moments), generator=generator, device=generator.device) < settings.unplanned
    return torch.where(end, torch.minimum(far, moments.time - 1), 0)


def draw_ahead(
    episodes: LatentEpisodes,
    marks: EpisodeMarks,
    pasts: Pasts,
    schedule: Schedule,
    settings: AheadSettings,
    generator: torch.Generator,
) -> Ahead:
    """True frames behind each moment's section; planned ends at distances drawn anew, none behind those made as ends."""
    moments, count = pasts.moments, len(pasts.moments)
    device = moments.time.device
    close, planned = schedule.frames("coming"), schedule.frames("last")
    next_to = torch.ones(count, 1, dtype=torch.int64, device=device)
    known = torch.full((count, 1), close, device=device)
    if close:
        draw = torch.rand(2, count, 1, generator=generator, device=device)
        known = torch.where(draw[0] < settings.unplanned, (draw[1] * close).long(), close)
    coming = _frames(episodes, marks, moments, schedule, next_to, close)
    coming = coming.where(torch.arange(close, device=device) < known)
    far = _distances(count, settings, generator)[:, None] if planned else next_to
    ended = torch.rand(count, 1, generator=generator, device=device) >= settings.endless
    last = _frames(episodes, marks, moments, schedule, far, planned).where((pasts.gap[:, None] == 0) & ended)
    numbers = moments.frames(schedule.section, schedule.section + close - 1)
    numbers = numbers.clamp(max=episodes.actions.shape[1] - 1)
    actions = episodes.actions[moments.episode[:, None], numbers].long() * coming.present[:, :, None]
    return Ahead(coming=coming, coming_actions=actions, last=last)


def _distances(count: int, settings: AheadSettings, generator: torch.Generator) -> Int[Tensor, " batch"]:
    uniform = torch.rand(count, generator=generator, device=generator.device)
    return (uniform * log(settings.longest + 1)).exp().long().clamp(1, settings.longest)


def _frames(
    episodes: LatentEpisodes,
    marks: EpisodeMarks,
    moments: Moments,
    schedule: Schedule,
    distance: Int[Tensor, "batch 1"],
    count: int,
) -> AgedFrames:
    """`count` frames in a row, the first so far behind each section's last frame; absent beyond an episode's end."""
    ages = distance + torch.arange(count, device=distance.device)
    numbers = moments.time[:, None] + schedule.section - 1 + ages
    rows, present = moments.episode[:, None], numbers < episodes.lengths[moments.episode][:, None]
    numbers = numbers.clamp(max=episodes.latents.shape[1] - 1)
    latents: Float[Tensor, "batch frame channel height width"] = episodes.latents[rows, numbers].float()
    return AgedFrames(latents=latents, present=present, ages=ages, poses=marks.poses[rows, numbers]).where(
        present
    )
