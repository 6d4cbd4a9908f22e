"""What two views tell of how they lie to each other, once the second is turned into the heading of the first.

Headings are exact, so of the six degrees of freedom between two views two are left: an offset on the floor. A turn on
the spot is a homography of a pinhole's picture whatever the depth; what differs after it is parallax.
"""

from math import radians, tan

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from retrieval.descriptor import ResidualBlock


def turned_view(
    latents: Float32[Tensor, "batch channel height width"], turn_deg: Float[Tensor, " batch"], view_deg: float
) -> Float[Tensor, "batch channel height width"]:
    """The views as they would be after turning left on the spot, zero where they did not look.

    Pixels are square, `view_deg` is the width.
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


class TwoViews(nn.Module):
    """One vector of two views; the second may be missing, then it is of the first alone."""

    def __init__(
        self, channels: int, height: int, width: int, fine: int, coarse: int, head_width: int, view_deg: float
    ) -> None:
        super().__init__()
        if height % 2 or width % 2 or fine % 8 or coarse % 8:
            raise ValueError(
                f"height {height}, width {width} must be even, fine {fine} and coarse {coarse} multiples of 8"
            )
        self.view_deg = view_deg
        self.enter = nn.Conv2d(2 * channels + 1, fine, 3, padding=1)
        self.fine = nn.Sequential(*(ResidualBlock(fine) for _ in range(3)))
        self.halve = nn.Conv2d(fine, coarse, 4, stride=2, padding=1)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse) for _ in range(2)))
        self.squeeze = nn.Conv2d(coarse, 10, 1)
        self.project = nn.Linear(10 * (height // 2) * (width // 2), head_width)

    def forward(
        self,
        first: Float[Tensor, "batch channel height width"],
        second: Float[Tensor, "batch channel height width"],
        turn_deg: Float[Tensor, " batch"],
        present: Bool[Tensor, " batch"],
    ) -> Float[Tensor, "batch head_width"]:
        """`turn_deg` is how much further left the second looks; it is looked at only where it is `present`."""
        number = self.enter.weight.dtype
        here = present[:, None, None, None].float()
        there = torch.cat((second.float() * here, here.expand(-1, 1, *second.shape[2:])), 1)
        # In float32: bfloat16 tells directions to a few hundredths of a cell only.
        turned = turned_view(there, -turn_deg, self.view_deg)
        return self.told(self._looked_at(first.to(number), turned.to(number)))

    def told(self, cells: Float[Tensor, "batch fine height width"]) -> Float[Tensor, "batch head_width"]:
        """The vector of what is seen cell by cell: of two views, or of one `alone`."""
        x = self.coarse(self.halve(cells))
        vector: Tensor = self.project(functional.silu(self.squeeze(functional.silu(x))).flatten(1))
        return vector

    def alone(
        self, views: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch fine height width"]:
        """What a view shows cell by cell, without a second one."""
        views = views.to(self.enter.weight.dtype)
        return self._looked_at(views, views.new_zeros(len(views), views.shape[1] + 1, *views.shape[2:]))

    def _looked_at(
        self,
        first: Float[Tensor, "batch channel height width"],
        second: Float[Tensor, "batch marked height width"],
    ) -> Float[Tensor, "batch fine height width"]:
        fine: Tensor = self.fine(self.enter(torch.cat((first, second), 1)))
        return fine
