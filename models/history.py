"""What the transformer is given of the past: the recent frames, the recalled frames, and their actions and ages."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class History:
    """A batch of pasts in latents; frames that do not exist hold zeros and are marked absent."""

    recent: Float[Tensor, "batch recent channel height width"]
    """the schedule's recent frames, oldest first"""
    recent_present: Bool[Tensor, "batch recent"]
    recent_actions: Int[Tensor, "batch recent factor"]
    """the action that led to each recent frame"""
    recalled: Float[Tensor, "batch recalled channel height width"]
    """frames that memory picked, best first"""
    recalled_present: Bool[Tensor, "batch recalled"]
    recalled_ages: Int[Tensor, "batch recalled"]
    """frames between the recalled frame and the section"""
    recent_poses: Float[Tensor, "batch recent 3"]
    """estimated x, y in units of the game and heading in degrees that each frame was seen from; anything if absent"""
    recalled_poses: Float[Tensor, "batch recalled 3"]
    section_poses: Float[Tensor, "batch section 3"]
    """where the frames of the section are expected to be seen from"""
    sigma: Float[Tensor, " batch"]
    """noise level of all history latents, 0 clean … 1 pure noise"""

    def to(self, device: torch.device | str) -> "History":
        return History(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def add_noise(
    latents: Float[Tensor, "batch *rest"], sigma: Float[Tensor, " batch"], noise: Float[Tensor, "batch *rest"]
) -> Float[Tensor, "batch *rest"]:
    """x_sigma = (1 − sigma) x_0 + sigma noise, the straight path of rectified flow (Liu et al. 2022, eq. 1)."""
    level = sigma.to(latents.dtype).view(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise
