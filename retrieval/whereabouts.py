"""Where players are, and what is known of the frames that they were followed over."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Whereabouts:
    """Places of a batch of players, from where their worlds began, and the moves that brought them there."""

    pose: Float[Tensor, "batch 3"]
    """x, y in map units, heading in degrees"""
    move: Float[Tensor, "batch 2"]
    """the last step's, along x and y"""

    @classmethod
    def stack(cls, each: Sequence["Whereabouts"]) -> "Whereabouts":
        """Several batches as one."""
        return cls(pose=torch.cat([one.pose for one in each]), move=torch.cat([one.move for one in each]))

    @classmethod
    def origin(cls, batch: int, device: torch.device | str = "cpu") -> "Whereabouts":
        return cls(pose=torch.zeros(batch, 3, device=device), move=torch.zeros(batch, 2, device=device))


@dataclass(frozen=True)
class Followed:
    """What is known of frames that were followed."""

    poses: Float[Tensor, "batch time 3"]
    """where each was seen from"""
    expected: Float[Tensor, "batch time 3"]
    """the same before it was seen"""
    moves: Float[Tensor, "batch time 2"]
    """along x and y, that led to each from the one before; corrections of the place are not part of it"""

    def part(self, row: int, stop: int) -> "Followed":
        """The first `stop` frames of one of the batch."""
        part = slice(row, row + 1), slice(0, stop)
        return Followed(poses=self.poses[part], expected=self.expected[part], moves=self.moves[part])
