"""An offset as two views show it against what is told of it: whether to look, how it lies, and how sure that is."""

from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOVE_SCALE = 32.0
"""map units: moves are of this size, and networks like numbers of size one"""
OFFSET_SCALE = 64.0
"""map units: offsets between views of one place are of this size"""
WIDEST, NARROWEST = 3.0, -6.0
"""logarithms of the greatest and the least spread, in scales"""


@dataclass(frozen=True)
class Offset:
    """Of every pair of views, in the first one's axes: forward and left."""

    logit: Float[Tensor, " batch"]
    """log odds that what the views show counts, and not what was told"""
    offset: Float[Tensor, "batch 2"]
    """if so, in map units"""
    log_spread: Float[Tensor, " batch"]
    """logarithm of the expected distance from the truth, in map units"""

    @property
    def variance(self) -> Float[Tensor, " batch"]:
        """Along either axis, in squared map units: of distances with density e^(−r/b) / 2πb², whose mean is 2b, 3b²."""
        return 0.75 * (2 * self.log_spread).exp()


class OffsetHead(nn.Module):
    """Reads an offset from the features of two views and from what is told; begins by trusting that."""

    def __init__(self, told: int, width: int, scale: float) -> None:
        """`told` numbers beside the features; offsets are of the size of `scale` map units."""
        super().__init__()
        self.scale = scale
        self.told = nn.Linear(told, width)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 4))
        for parameter in self.mlp[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        features: Float[Tensor, "batch width"],
        told: Float[Tensor, "batch 2"],
        more: Float[Tensor, "batch more"],
    ) -> Offset:
        """`told` is the offset that was told, in map units; `more` whatever else is known."""
        numbers = torch.cat((told / self.scale, more), 1).to(features.dtype)
        found = self.mlp(features + self.told(numbers)).float()
        spread = found[:, 3].clamp(NARROWEST, WIDEST)
        return Offset(
            logit=found[:, 0],
            offset=told + self.scale * found[:, 1:3],
            log_spread=spread + log(self.scale),
        )
