"""Past views as they would look from where the coming frame will be seen: swept through planes of several depths.

Headings are known exactly and places nearly, so what is missing to redraw an old view is depth alone. Every past view is
therefore warped once for each of a few depths (plane sweep, Collins 1996; as feature volumes, Yao et al. 2018, MVSNet,
section 3.2). Convolutions on the latents' own grid learn which view and which depth fits a cell, and the latents that do
are blended there. Attention finds what is remembered, but its tokens are four cells large; this puts it in its place.
"""

from math import radians, tan

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from models.history import History
from models.viewpoint import MOVE_FEATURES, move_features, relative_poses

INVERSE_DEPTHS = (0.0, 1 / 512, 1 / 256, 1 / 160, 1 / 96, 1 / 56)
"""of the planes, in map units: 50 units to the side shift a view by less than a cell between two of them down to a depth
of 160, by 1.7 and 3 cells between the last three"""
RECENT_AGES = (3, 6, 11, 17)
"""of the recent frames that are warped beside the newest: packed small, they are too young to be recalled"""
BEHIND = 0.05
"""a point is seen if it lies ahead by this share of its depth or more"""
NEVER = -1e4
"""logit of what is not there"""


def sweep(
    views: Float[Tensor, "view channel height width"],
    relative: Float[Tensor, "view 3"],
    inverse_depths: Float[Tensor, " depth"],
    view_deg: float,
) -> Float[Tensor, "view depth channel height width"]:
    """Every view from the coming frame's place, once for each depth; zero where it did not look.

    `relative` is where each was seen from as `relative_poses` tells it: forward, left, turned left by so many degrees.
    Pixels are square, `view_deg` is the width.
    """
    height, width = views.shape[2:]
    device, half = views.device, tan(radians(view_deg) / 2)
    inverse = inverse_depths[:, None, None]
    across = ((2 * torch.arange(width, device=device) + 1) / width - 1) * half
    down = ((2 * torch.arange(height, device=device) + 1) / height - 1)[:, None] * half * height / width
    forward, left = (relative[:, i, None, None, None] for i in (0, 1))
    turn = torch.deg2rad(relative[:, 2, None, None, None])
    # The point (1, −across, −down) / inverse of the coming frame's axes forward, left, up, times its inverse depth:
    # from a viewpoint that lies elsewhere, then along that view's axes.
    ahead, aside = 1 - forward * inverse, -across - left * inverse
    depth = ahead * turn.cos() + aside * turn.sin()
    right = ahead * turn.sin() - aside * turn.cos()
    seen = depth > BEHIND
    safe = torch.where(seen, depth, 1.0)
    column = torch.where(seen, right / safe / half, 9.0).expand(-1, -1, height, -1)
    row = down / safe * (width / height) / half
    grid = torch.stack((column, row), -1).flatten(0, 1)
    repeated = views.repeat_interleave(len(inverse_depths), 0)
    warped = functional.grid_sample(repeated, grid, padding_mode="zeros", align_corners=False)
    return warped.unflatten(0, (len(views), -1))


class WarpedViews(nn.Module):
    """What swept past views tell of every cell of a section; its tokens begin as zeros, to join a trained model."""

    def __init__(self, channels: int, hidden: int, width: int, view_deg: float) -> None:
        super().__init__()
        self.view_deg = view_deg
        # A buffer, because what a CUDA graph captures may bring nothing from the CPU.
        self.inverse_depths: Tensor
        self.register_buffer("inverse_depths", torch.tensor(INVERSE_DEPTHS), persistent=False)
        self.enter = nn.Conv2d(len(INVERSE_DEPTHS) * (channels + 1), hidden, 3, padding=1)
        self.moved = nn.Linear(MOVE_FEATURES, hidden)
        self.newest = nn.Parameter(torch.zeros(hidden))
        self.each, self.fused = (
            nn.Sequential(
                nn.SiLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1),
            )
            for _ in range(2)
        )
        self.worth = nn.Conv2d(hidden, 1, 1)
        self.fit = nn.Conv2d(hidden, len(INVERSE_DEPTHS), 1)
        self.channels = hidden + channels + 1
        """of what `forward` returns: features, blended latents, and how much of a cell these have seen"""
        self.tokens = nn.Linear(4 * self.channels, width)
        for parameter in self.tokens.parameters():
            nn.init.zeros_(parameter)

    def forward(self, history: History) -> Float[Tensor, "batch section told height width"]:
        """For each frame of the section, from the frame next to it, some recent and the recalled ones."""
        recent, reach = history.part("recent"), history.recent.shape[1]
        some = [recent.part(slice(reach - age, reach - age + 1)) for age in RECENT_AGES if age <= reach]
        frames = (history.neighbour, *some, history.recalled)
        views, present, poses = (
            torch.cat([getattr(each, name) for each in frames], 1) for name in ("latents", "present", "poses")
        )
        made = [self._one(views, present, poses, origin) for origin in history.section_poses.unbind(1)]
        return torch.stack(made, 1)

    def _one(
        self,
        views: Float[Tensor, "batch view channel height width"],
        present: Bool[Tensor, "batch view"],
        poses: Float[Tensor, "batch view 3"],
        origin: Float[Tensor, "batch 3"],
    ) -> Float[Tensor, "batch told height width"]:
        number, count = self.enter.weight.dtype, views.shape[1]
        relative = torch.where(present[..., None], relative_poses(poses, origin), 0.0)
        swept = self._swept(views, present, relative)
        moved = self.moved(move_features(relative).to(number))
        moved = torch.cat((moved[:, :1] + self.newest, moved[:, 1:]), 1)
        x = self.enter(swept.flatten(2, 3).flatten(0, 1).to(number))
        x = x + moved.flatten(0, 1)[:, :, None, None]
        x = x + self.each(x)
        # Which view has something to say of a cell ...
        worth = self.worth(x).unflatten(0, (-1, count)).float()
        worth = worth.masked_fill(~present[:, :, None, None, None], NEVER).softmax(1)
        x = x.unflatten(0, (-1, count))
        fused = (x * worth.to(x.dtype)).sum(1)
        fused = functional.silu(fused + self.fused(fused))
        # ... and, once that is known, which view and depth show it.
        fit = self.fit(functional.silu(x + fused[:, None]).flatten(0, 1)).unflatten(0, (-1, count)).float()
        fit = fit.masked_fill(swept[:, :, :, -1] < 0.5, NEVER).flatten(1, 2).softmax(1)
        blended = (swept.flatten(1, 2) * fit[:, :, None]).sum(1)
        return torch.cat((fused, blended.to(fused.dtype)), 1)

    def _swept(
        self,
        views: Float[Tensor, "batch view channel height width"],
        present: Bool[Tensor, "batch view"],
        relative: Float[Tensor, "batch view 3"],
    ) -> Float[Tensor, "batch view depth marked height width"]:
        """Every view at every depth, and behind its channels how much of each cell it has seen."""
        here = present[:, :, None, None, None].float()
        marked = torch.cat((views.float() * here, here.expand(-1, -1, 1, *views.shape[3:])), 2)
        depths = self.inverse_depths.float()
        # In float32: bfloat16 tells directions to a few hundredths of a cell only.
        with torch.autocast(views.device.type, enabled=False):
            swept = sweep(marked.flatten(0, 1), relative.flatten(0, 1).float(), depths, self.view_deg)
        return swept.unflatten(0, views.shape[:2])

    def of_tokens(
        self, told: Float[Tensor, "batch section told height width"]
    ) -> Float[Tensor, "batch section token token_width"]:
        """To be added to the section's k1 tokens, in their order; a side of odd length is padded with its far edge."""
        height, width = told.shape[3:]
        padded = functional.pad(told.flatten(0, 1), (0, width % 2, 0, height % 2), mode="replicate")
        patches = functional.pixel_unshuffle(padded, 2).flatten(2).transpose(1, 2)
        return self.tokens(patches).unflatten(0, told.shape[:2])


class WarpedCells(nn.Module):
    """What warped views add to what the refiner takes in; begins as zeros, apart from both that it joins."""

    def __init__(self, told: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(told, channels, 3, padding=1)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, told: Float[Tensor, "batch section told height width"]
    ) -> Float[Tensor, "batch section channels height width"]:
        return self.conv(told.flatten(0, 1)).unflatten(0, told.shape[:2])
