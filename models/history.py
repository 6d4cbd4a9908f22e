"""What the transformer is given of the past, and where an end is planned of the future: frames, actions and ages."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.schedule import Part

T = TypeVar("T")

AGED: tuple[Part, ...] = ("recalled", "first", "ranked", "coming", "last")
"""parts whose frames may lie anywhere, in the order of their tokens"""


@dataclass(frozen=True)
class AgedFrames:
    """Frames that may lie anywhere in the past, known by their ages; those that do not exist are marked absent."""

    latents: Float[Tensor, "batch frame channel height width"]
    present: Bool[Tensor, "batch frame"]
    ages: Int[Tensor, "batch frame"]
    """how many frames before the section's first, or behind its last; 1 is its neighbour"""
    poses: Float[Tensor, "batch frame 3"]
    """estimated x, y in units of the game and heading in degrees that each frame was seen from; anything if absent"""

    def part(self, frames: slice) -> "AgedFrames":
        """Some of them."""
        return AgedFrames(
            self.latents[:, frames], self.present[:, frames], self.ages[:, frames], self.poses[:, frames]
        )

    def older(self, frames: int) -> "AgedFrames":
        """The same for a section that lies so many frames later."""
        return replace(self, ages=self.ages + frames)

    def where(self, kept: Bool[Tensor, "#batch #frame"]) -> "AgedFrames":
        """The same without the others, in whose place zeros stand."""
        present = self.present & kept
        return replace(self, latents=self.latents * present[:, :, None, None, None], present=present)

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
    ranked: AgedFrames
    """frames before the recent ones in the order of their importance, the best last"""
    coming: AgedFrames
    """frames right behind the section, where they are known before it: in inverted sampling"""
    coming_actions: Int[Tensor, "batch coming factor"]
    """the action that led to each of them"""
    last: AgedFrames
    """frames of a planned end"""
    gap: Int[Tensor, " batch"]
    """how many frames lie between the newest recent one and the section: 0, but for a planned end itself"""
    section_poses: Float[Tensor, "batch section 3"]
    """where the frames of the section are expected to be seen from"""
    sigma: Float[Tensor, " batch"]
    """noise level of all history latents, 0 clean … 1 pure noise"""

    @property
    def frames(self) -> int:
        """Of all parts but the tail together."""
        return sum(self._counts())

    def _counts(self) -> list[int]:
        return [self.recent.shape[1], *(getattr(self, part).latents.shape[1] for part in AGED)]

    def part(self, name: Part) -> AgedFrames:
        """A part's frames; recent ones count back from the section."""
        if name != "recent":
            frames: AgedFrames = getattr(self, name)
            return frames
        reach = self.recent.shape[1]
        ages = torch.arange(reach, 0, -1, device=self.recent.device).expand(len(self.recent), -1)
        return AgedFrames(
            latents=self.recent, present=self.recent_present, ages=ages, poses=self.recent_poses
        )

    @property
    def neighbour(self) -> AgedFrames:
        """The one known frame that the section is made next to: the newest, or in inverted sampling the next."""
        if self.recent.shape[1]:
            return self.part("recent").part(slice(-1, None))
        return self.coming.part(slice(0, 1))

    def under(self, *levels: float) -> "History":
        """The batch once for each of these noise levels, which it is told; the noise itself is `noised`'s."""
        again = _each_tensor(self, lambda value: torch.cat([value] * len(levels)))
        sigma = torch.cat([torch.full_like(self.sigma, level) for level in levels])
        return replace(again, sigma=sigma)

    def rows(self, part: slice) -> "History":
        """Some of the batch."""
        return _each_tensor(self, lambda value: value[part])

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
            for name in (*AGED, "tail")
            for part in [getattr(self, name)]
        }
        return replace(self, recent=change(self.recent), **parts)

    def noised(self, noise: Float[Tensor, "batch frames channel height width"]) -> "History":
        """With noise of level `sigma` on recent frames and on those of `AGED`, in this order.

        From a tail, whose frames are pooled, noise is pooled away.
        """
        recent, *others = noise.split(self._counts(), 1)
        pooled = add_noise(self.tail.latents, self.sigma, torch.zeros_like(self.tail.latents))
        parts = {
            name: replace(part, latents=add_noise(part.latents, self.sigma, other))
            for name, other in zip(AGED, others, strict=True)
            for part in [getattr(self, name)]
        }
        return replace(
            self,
            recent=add_noise(self.recent, self.sigma, recent),
            tail=replace(self.tail, latents=pooled),
            **parts,
        )


def _each_tensor(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """A dataclass of tensors, and of such dataclasses, with every tensor changed alike."""
    changed = {}
    for field in fields(value):  # type: ignore[arg-type]
        inner = getattr(value, field.name)
        changed[field.name] = change(inner) if isinstance(inner, Tensor) else _each_tensor(inner, change)
    return replace(value, **changed)  # type: ignore[type-var]


def add_noise(
    latents: Float[Tensor, "batch *rest"], sigma: Float[Tensor, " batch"], noise: Float[Tensor, "batch *rest"]
) -> Float[Tensor, "batch *rest"]:
    """x_sigma = (1 − sigma) x_0 + sigma noise, the straight path of rectified flow (Liu et al. 2022, eq. 1)."""
    level = sigma.to(latents.dtype).view(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise
