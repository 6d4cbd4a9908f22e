"""What the transformer is given of the past: recent, recalled and first frames and the tail, their actions and ages."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class AgedFrames:
    """Frames that may lie anywhere in the past, known by their ages; those that do not exist are marked absent."""

    latents: Float[Tensor, "batch frame channel height width"]
    present: Bool[Tensor, "batch frame"]
    ages: Int[Tensor, "batch frame"]
    """how many frames before the section's first; 1 is the newest of all"""
    poses: Float[Tensor, "batch frame 3"]
    """estimated x, y in units of the game and heading in degrees that each frame was seen from; anything if absent"""

    def part(self, frames: slice) -> "AgedFrames":
        """Some of them."""
        return AgedFrames(
            self.latents[:, frames], self.present[:, frames], self.ages[:, frames], self.poses[:, frames]
        )

    def filled_up(self, size: int) -> "AgedFrames":
        """Groups of `size`: the last frame stands for those that the last group lacks."""
        missing = -self.ages.shape[1] % size
        if not missing:
            return self
        last = self.part(slice(-1, None))
        return AgedFrames(
            **{
                field.name: torch.cat(
                    (
                        getattr(self, field.name),
                        getattr(last, field.name).repeat_interleave(missing, dim=1),
                    ),
                    1,
                )
                for field in fields(self)
            }
        )

    @classmethod
    def none(cls, like: Float[Tensor, "batch frame channel height width"]) -> "AgedFrames":
        """No frame at all, of the sizes of others."""
        shape = len(like), 0
        return cls(
            latents=like[:, :0],
            present=torch.zeros(shape, dtype=torch.bool, device=like.device),
            ages=torch.zeros(shape, dtype=torch.int64, device=like.device),
            poses=torch.zeros(*shape, 3, device=like.device),
        )


@dataclass(frozen=True)
class History:
    """A batch of pasts in latents; frames that do not exist hold zeros and are marked absent."""

    recent: Float[Tensor, "batch recent channel height width"]
    """the schedule's recent frames, oldest first"""
    recent_present: Bool[Tensor, "batch recent"]
    recent_actions: Int[Tensor, "batch recent factor"]
    """the action that led to each recent frame"""
    recent_poses: Float[Tensor, "batch recent 3"]
    """as in `AgedFrames`"""
    recalled: AgedFrames
    """frames that memory picked, best first"""
    first: AgedFrames
    """frames of the very beginning that the schedule keeps, oldest first"""
    tail: AgedFrames
    """what is left of the frames beyond, oldest first: one of `tail_cells` a frame, or of all; none if deleted"""
    section_poses: Float[Tensor, "batch section 3"]
    """where the frames of the section are expected to be seen from"""
    sigma: Float[Tensor, " batch"]
    """noise level of all history latents, 0 clean … 1 pure noise"""

    @property
    def frames(self) -> int:
        """Recent, recalled and first frames together."""
        return self.recent.shape[1] + self.recalled.latents.shape[1] + self.first.latents.shape[1]

    def twice(self) -> "History":
        """The batch, and the batch again."""

        def doubled(value: Any) -> Any:
            if isinstance(value, Tensor):
                return torch.cat((value, value))
            return replace(value, **{each.name: doubled(getattr(value, each.name)) for each in fields(value)})

        again: History = doubled(self)
        return again

    def mapped(
        self,
        change: Callable[
            [Float[Tensor, "batch frame channel height width"]],
            Float[Tensor, "batch frame channel height width"],
        ],
    ) -> "History":
        """Every latent changed alike."""
        parts = {
            name: replace(part, latents=change(part.latents))
            for name in ("recalled", "first", "tail")
            for part in [getattr(self, name)]
        }
        return replace(self, recent=change(self.recent), **parts)

    def noised(self, noise: Float[Tensor, "batch frames channel height width"]) -> "History":
        """With noise of level `sigma` on the recent, recalled and first frames, in this order.

        From a tail, whose frames are pooled, noise is pooled away.
        """
        counts = [self.recent.shape[1], self.recalled.latents.shape[1], self.first.latents.shape[1]]
        recent, recalled, first = noise.split(counts, 1)
        pooled = add_noise(self.tail.latents, self.sigma, torch.zeros_like(self.tail.latents))
        return replace(
            self,
            recent=add_noise(self.recent, self.sigma, recent),
            recalled=replace(self.recalled, latents=add_noise(self.recalled.latents, self.sigma, recalled)),
            first=replace(self.first, latents=add_noise(self.first.latents, self.sigma, first)),
            tail=replace(self.tail, latents=pooled),
        )


def add_noise(
    latents: Float[Tensor, "batch *rest"], sigma: Float[Tensor, " batch"], noise: Float[Tensor, "batch *rest"]
) -> Float[Tensor, "batch *rest"]:
    """x_sigma = (1 − sigma) x_0 + sigma noise, the straight path of rectified flow (Liu et al. 2022, eq. 1)."""
    level = sigma.to(latents.dtype).view(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise
