"""Moments in episodes: what the model knows of the past when it is about to make frame `time`."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor


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
