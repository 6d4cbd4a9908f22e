"""Rotary phases that say which way of the world a token looks, whatever frame it belongs to."""

from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.kernel import Kernel
from models.rotary import axis_split
from models.schedule import PACKED, Schedule
from models.viewpoint import column_directions_deg, direction_phases, direction_waves


class WorldPhases(nn.Module):
    """Takes the columns' share of the phases of a pack and fills it with directions: heading plus the column's own.

    A head with these phases finds what lay in a direction when the player has turned, in one step of attention.
    Compressed tokens take the mean over their frames and columns, as the other phases do (FramePack, section 3.1).
    """

    def __init__(self, schedule: Schedule, height: int, width: int, head_dim: int, view_deg: float) -> None:
        super().__init__()
        self.height = height
        self.levels = [level for part in PACKED for level in schedule.levels(part)]
        self.part = axis_split(head_dim)[2] // 2
        cols = Kernel.of_rate(1).token_grid(height, width)[1]
        self.directions: Tensor
        self.cell_directions: Tensor
        self.register_buffer("directions", column_directions_deg(cols, view_deg), persistent=False)
        self.register_buffer("cell_directions", column_directions_deg(width, view_deg), persistent=False)
        self.waves: Tensor
        self.register_buffer("waves", direction_waves(360 / view_deg * cols, self.part), persistent=False)

    def history(
        self,
        headings_deg: Float[Tensor, "batch frame"],
        cos: Float[Tensor, "token half"],
        sin: Float[Tensor, "token half"],
    ) -> tuple[Float[Tensor, "batch token half"], Float[Tensor, "batch token half"]]:
        """Of the packed history; headings of all parts' frames, in the order of `PACKED`, relative to the section's.

        `cos` and `sin` are the pack's other phases. Tokens of the tail, which come last, look everywhere.
        """
        parts = headings_deg.split([level.frames for level in self.levels], 1)
        kernels = [level.kernel for level in self.levels]
        levels = [self._level(each, kernel) for each, kernel in zip(parts, kernels, strict=True)]
        tail = len(cos) - sum(level[0].shape[1] for level in levels)
        everywhere = (self.waves == 0).float().expand(len(headings_deg), tail, -1)
        levels.append((everywhere, torch.zeros_like(everywhere)))
        return _fill([level[0] for level in levels], cos), _fill([level[1] for level in levels], sin)

    def section(
        self, headings_deg: Float[Tensor, "batch section"], cos: Tensor, sin: Tensor
    ) -> tuple[Float[Tensor, "batch token half"], Float[Tensor, "batch token half"]]:
        """Of the section's own tokens."""
        own_cos, own_sin = self._level(headings_deg, Kernel.of_rate(1))
        return _fill([own_cos], cos), _fill([own_sin], sin)

    def _level(
        self, headings_deg: Float[Tensor, "batch frame"], kernel: Kernel
    ) -> tuple[Float[Tensor, "batch token part"], Float[Tensor, "batch token part"]]:
        columns, stride = (
            (self.cell_directions, 1) if kernel.cols == 1 else (self.directions, kernel.cols // 2)
        )
        directions = headings_deg.float()[..., None] + columns
        missing = -directions.shape[-1] % stride
        directions = torch.cat((directions, directions[..., -1:].expand(-1, -1, missing)), -1)
        rows = ceil(self.height / kernel.rows)
        cos, sin = (
            # Within a group tokens come row by row, and all rows look the same way.
            phases.unflatten(2, (-1, stride)).unflatten(1, (-1, kernel.frames)).mean((2, 4))[:, :, None]
            .expand(-1, -1, rows, -1, -1).flatten(1, 3)
            for phases in direction_phases(directions, self.waves.float())
        )  # fmt: skip
        return cos, sin


def _fill(
    levels: list[Float[Tensor, "batch _ part"]], plain: Float[Tensor, "token half"]
) -> Float[Tensor, "batch token half"]:
    """The other phases of a pack with their last columns replaced by those of its levels."""
    told = torch.cat(levels, 1)
    kept = plain[:, : plain.shape[1] - told.shape[2]].expand(len(told), -1, -1)
    return torch.cat((kept, told), 2)
