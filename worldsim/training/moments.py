"""Moments in episodes: what the model knows of the past when it is about to make frame `time`."""

from dataclasses import dataclass, fields
from functools import cache

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from models.history import AgedFrames
from models.schedule import Schedule


@dataclass(frozen=True)
class Moments:
    """Frames about to be made: frame `time` (and on) of episode `episode`."""

    episode: Int[Tensor, " batch"]
    time: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.time)

    def frames(self, first: int, last: int) -> Int[Tensor, "batch frame"]:
        """Numbers time + first … time + last."""
        return self.time[:, None] + torch.arange(first, last + 1, device=self.time.device)


@dataclass(frozen=True)
class Pasts:
    """Moments, and the recent frames that the model has before each of them."""

    moments: Moments
    recent: Float[Tensor, "batch recent channel height width"]
    present: Bool[Tensor, "batch recent"]
    poses: Float[Tensor, "batch recent 3"]
    """where these frames were seen from, as the odometer estimates it"""
    expected: Float[Tensor, "batch section 3"]
    """the same of the coming section, before it is seen"""
    gap: Int[Tensor, " batch"]
    """frames between the recent ones and the moment: 0, but where the moment is a planned end"""

    def with_more(self, more: "Pasts") -> "Pasts":
        """These and then those."""
        moments = Moments(
            episode=torch.cat((self.moments.episode, more.moments.episode)),
            time=torch.cat((self.moments.time, more.moments.time)),
        )
        names = [field.name for field in fields(self) if field.name != "moments"]
        return Pasts(
            moments=moments,
            **{name: torch.cat((getattr(self, name), getattr(more, name))) for name in names},
        )


def recent_latents(
    latents: Float[Tensor, "episode time channel height width"], moments: Moments, count: int
) -> tuple[Float[Tensor, "batch {count} channel height width"], Bool[Tensor, "batch {count}"]]:
    """The `count` latents before each moment, oldest first, zeros where there are none."""
    numbers = moments.frames(-count, -1)
    present = numbers >= 0
    picked = latents[moments.episode[:, None], numbers.clamp(min=0)].float()
    return picked * present[:, :, None, None, None], present


def recent_actions(
    actions: Integer[Tensor, "episode time factor"], moments: Moments, count: int, section: int
) -> Int[Tensor, "batch step factor"]:
    """The actions of the `count` frames before each moment and of its section; "none" where there are none."""
    numbers = moments.frames(-count, section - 1)
    picked = actions[moments.episode[:, None], numbers.clamp(min=0)].long()
    return picked * (numbers >= 0)[:, :, None]


def coming_latents(
    latents: Float[Tensor, "episode time channel height width"], moments: Moments, section: int
) -> Float[Tensor, "batch section channel height width"]:
    """The true latents of each moment's section."""
    return latents[moments.episode[:, None], moments.frames(0, section - 1)].float()


def first_frames(
    latents: Float[Tensor, "episode time channel height width"],
    poses: Float[Tensor, "episode time 3"],
    moments: Moments,
    schedule: Schedule,
) -> AgedFrames:
    """Frames of the very beginning that each moment's schedule keeps, as `Schedule.first_used` tells."""
    present = _first_used(moments, schedule)
    numbers = torch.arange(schedule.first_frames, device=present.device).expand(len(moments), -1)
    rows = moments.episode[:, None]
    return AgedFrames(
        latents=latents[rows, numbers].float() * present[:, :, None, None, None],
        present=present,
        ages=moments.time[:, None] - numbers,
        poses=poses[rows, numbers],
    )


def _first_used(moments: Moments, schedule: Schedule) -> Bool[Tensor, "batch first"]:
    table = _first_table(schedule).to(moments.time.device)
    return table[moments.time.clamp(max=len(table) - 1)]


@cache
def _first_table(schedule: Schedule) -> Bool[Tensor, "time first"]:
    """By time; from the last row on every first frame is used."""
    settled = schedule.first_frames + schedule.recent_frames
    used = torch.zeros(settled + 1, schedule.first_frames, dtype=torch.bool)
    for time in range(settled + 1):
        used[time, schedule.first_used(time)] = True
    return used


def tail_frames(
    cells: Float[Tensor, "episode time channel rows cols"], moments: Moments, schedule: Schedule
) -> AgedFrames:
    """What each moment's tail keeps of the frames between the first and the recent ones; see `Memory.tail`.

    `cells` are the episodes' `tail_cells`.
    """
    size, first = schedule.tail_kernel.frames, _first_used(moments, schedule).sum(1)
    counts = (moments.time - schedule.recent_frames - first).clamp(min=0)
    kept = schedule.tail in ("ta", "tc")
    longest, device = kept * max(0, cells.shape[1] - schedule.recent_frames), counts.device
    numbers = torch.arange(longest, device=device)
    # Behind the last frame stands that frame again, as far as its group goes.
    frames = first[:, None] + torch.minimum(numbers, (counts - 1).clamp(min=0)[:, None])
    latents = cells[moments.episode[:, None], frames].float()
    present = numbers < (counts[:, None] + size - 1) // size * size
    ages = moments.time[:, None] - frames
    if schedule.tail == "tc" and longest:
        real = (numbers < counts[:, None]).float()
        share = real / counts.clamp(min=1)[:, None]
        latents = (latents * share[:, :, None, None, None]).sum(1, keepdim=True)
        ages = (ages * share).sum(1, keepdim=True).round().long()
        present = (counts > 0)[:, None]
    poses = torch.zeros(*ages.shape, 3, device=device)
    return AgedFrames(latents=latents, present=present, ages=ages, poses=poses)
