"""Registration: how a recalled view and the newest one lie to each other, seen in the two frames themselves.

Path integration drifts with every wall that is touched, so two frames of one place, hundreds of steps apart, are told
to lie where they do not. Headings are exact; what drifts is the offset, and that is what the two views can tell.
"""

from math import radians, tan

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from retrieval.descriptor import ResidualBlock

OFFSET_SCALE = 64.0
"""map units: offsets between views of one place are of this size"""


def turned_view(
    latents: Float32[Tensor, "batch channel height width"], turn_deg: Float[Tensor, " batch"], view_deg: float
) -> Float[Tensor, "batch channel height width"]:
    """The views as they would be after turning left on the spot, zero where they did not look.

    A turn is a homography of a pinhole's picture whatever the depth; pixels are square, `view_deg` is the width.
    """
    height, width = latents.shape[2:]
    half = tan(radians(view_deg) / 2)
    across = ((2 * torch.arange(width, device=latents.device) + 1) / width - 1) * half
    down = ((2 * torch.arange(height, device=latents.device) + 1) / height - 1) * half * height / width
    angle = torch.deg2rad(turn_deg)[:, None, None]
    cos, sin = angle.cos(), angle.sin()
    # The ray (1 forward, `across` right) of the turned view, along the axes of the view that was seen.
    forward = (cos + across * sin).expand(-1, height, -1)
    right = (across * cos - sin).expand(-1, height, -1)
    behind = forward < 0.05
    ahead = torch.where(behind, 1.0, forward)
    column = torch.where(behind, 9.0, right / ahead / half)
    row = down[:, None] / ahead * (width / height) / half
    grid = torch.stack((column, row), -1)
    return functional.grid_sample(latents, grid, padding_mode="zeros", align_corners=False)


class Registration(nn.Module):
    """Sees whether two views show one place, and how they lie to each other if so; begins by trusting what is told."""

    def __init__(
        self, channels: int, height: int, width: int, hidden: int, head_width: int, view_deg: float
    ) -> None:
        super().__init__()
        self.view_deg = view_deg
        self.enter = nn.Conv2d(2 * channels + 1, hidden, 3, padding=1)
        self.fine = nn.Sequential(ResidualBlock(hidden), ResidualBlock(hidden))
        self.halve = nn.Conv2d(hidden, hidden, 4, stride=2, padding=1)
        self.coarse = nn.Sequential(ResidualBlock(hidden), ResidualBlock(hidden))
        self.squeeze = nn.Conv2d(hidden, 8, 1)
        self.project = nn.Linear(8 * (height // 2) * (width // 2), head_width)
        self.told = nn.Linear(4, head_width)
        self.mlp = nn.Sequential(
            nn.SiLU(), nn.Linear(head_width, head_width), nn.SiLU(), nn.Linear(head_width, 3)
        )
        for parameter in self.mlp[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        newest: Float[Tensor, "batch channel height width"],
        recalled: Float[Tensor, "batch channel height width"],
        relative: Float[Tensor, "batch 3"],
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch 2"]]:
        """Whether both look at one place (a logit), and if so forward and left of the recalled view, in map units.

        Along the newest view's axes. `relative` is where the recalled one was told to be: forward, left, and degrees
        that it looks further left; of these the last is right.
        """
        there = torch.cat((recalled, torch.ones_like(recalled[:, :1])), 1)
        # In float32: bfloat16 tells directions to a few hundredths of a cell only.
        seen = turned_view(there.float(), -relative[:, 2], self.view_deg).to(newest.dtype)
        x = self.fine(self.enter(torch.cat((newest, seen), 1)))
        x = self.coarse(self.halve(functional.silu(x)))
        features = self.project(functional.silu(self.squeeze(functional.silu(x))).flatten(1))
        angle = torch.deg2rad(relative[:, 2:])
        told = torch.cat((relative[:, :2] / OFFSET_SCALE, angle.cos(), angle.sin()), 1)
        found = self.mlp(features + self.told(told.to(newest.dtype))).float()
        return found[:, 0], relative[:, :2] + OFFSET_SCALE * found[:, 1:]
