"""Own histories that are held to the truth: the true place, as the model draws it.

What the model makes where nothing tells it the truth has no target: the recorded next frame denies it, and a model that
learns so draws every frame anew. Such histories taught nothing of seven in ten own frames, those deep in worlds of its
own above all. A history whose every frame is drawn from the true one under noise (SDEdit, Meng et al. 2022) has the
softness and the errors of the model's hand, its own frames before it and in memory included, and shows the true place:
the next true frame is its target everywhere (errors recycled, as Li et al. 2025, Stable Video Infinity).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.flow import Draft


class HeldHistories:
    """Which own histories of a batch are held to the truth, and what the model has made since they began."""

    def __init__(
        self,
        begin: Int[Tensor, " batch"],
        first: Int[Tensor, " batch"],
        frames: Float[Tensor, "batch step channel height width"],
    ) -> None:
        """`begin` is the denoising step that each is drawn from, 0 if it is free; `first` the time of its first own
        frame; `frames` have room for all that will be made, `made` says how many of them there are."""
        self.begin, self.first, self.frames, self.made = begin, first, frames, 0
        self.poses = torch.zeros(*frames.shape[:2], 3, device=frames.device)

    @classmethod
    def draw(
        cls,
        count: int,
        begins: Sequence[int],
        first: Int[Tensor, " batch"],
        frames: Float[Tensor, "batch step channel height width"],
        generator: torch.Generator,
    ) -> "HeldHistories":
        """The first `count` are held, each from one of the denoising steps `begins`."""
        begin = torch.zeros_like(first)
        if count:
            which = torch.randint(len(begins), (count,), generator=generator, device=first.device)
            begin[:count] = torch.tensor(begins, device=first.device)[which]
        return cls(begin, first, frames)

    @property
    def rows(self) -> Bool[Tensor, " batch"]:
        return self.begin > 0

    def draft(self, truth: Float[Tensor, "batch section channel height width"]) -> Draft:
        """What the next sections are drawn from."""
        return Draft(latents=truth, begin=self.begin)

    def add(
        self,
        made: Float[Tensor, "batch section channel height width"],
        poses: Float[Tensor, "batch section 3"],
    ) -> None:
        """The model has made these, seen from there."""
        new = slice(self.made, self.made + made.shape[1])
        self.frames[:, new], self.poses[:, new] = made.to(self.frames.dtype), poses
        self.made = new.stop

    def remembered(
        self,
        numbers: Int[Tensor, "batch n"],
        latents: Float[Tensor, "batch n channel height width"],
        poses: Float[Tensor, "batch n 3"],
    ) -> tuple[Float[Tensor, "batch n channel height width"], Float[Tensor, "batch n 3"]]:
        """Past frames by their numbers in the episode as memory has them: where the model made them, its own."""
        step = numbers - self.first[:, None]
        own = self.rows[:, None] & (step >= 0) & (step < self.made)
        rows, step = (
            torch.arange(len(step), device=step.device)[:, None],
            step.clamp(0, self.frames.shape[1] - 1),
        )
        made = self.frames[rows, step].to(latents.dtype)
        return (
            torch.where(own[..., None, None, None], made, latents),
            torch.where(own[..., None], self.poses[rows, step], poses),
        )
