"""Where players are, and what is known of the frames that they were followed over."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")


def joined(each: Sequence[T], dim: int = 0) -> T:
    """Several dataclasses of tensors as one: batches, or with `dim` 1 frames of the same players in turn."""
    names = [field.name for field in fields(each[0])]  # type: ignore[arg-type]
    return type(each[0])(**{name: torch.cat([getattr(one, name) for one in each], dim) for name in names})


@dataclass(frozen=True)
class Whereabouts:
    """Places of a batch of players, from where their worlds began, and the moves that brought them there."""

    pose: Float[Tensor, "batch 3"]
    """x, y in map units, heading in degrees"""
    move: Float[Tensor, "batch 2"]
    """the last step's, along x and y"""
    doubt: Float[Tensor, "batch 2"]
    """variance of the place along either axis, in squared map units: what is left of it, and all that ever came up"""

    @classmethod
    def origin(cls, batch: int, device: torch.device | str = "cpu") -> "Whereabouts":
        """Where worlds begin, beyond doubt."""
        nothing = torch.zeros(batch, 2, device=device)
        return cls(pose=torch.zeros(batch, 3, device=device), move=nothing, doubt=nothing)

    def of(self, row: int) -> "Whereabouts":
        """One of the batch."""
        part = slice(row, row + 1)
        return Whereabouts(pose=self.pose[part], move=self.move[part], doubt=self.doubt[part])

    def moved(self, shift: Float[Tensor, "batch 2"], doubt: Float[Tensor, "batch 2"]) -> "Whereabouts":
        """The same players a little aside, and what is doubtful of that; their last moves stay."""
        pose = torch.cat((self.pose[:, :2] + shift, self.pose[:, 2:]), 1)
        return Whereabouts(pose=pose, move=self.move, doubt=doubt)


@dataclass(frozen=True)
class Followed:
    """What is known of frames that were followed."""

    poses: Float[Tensor, "batch time 3"]
    """where each was seen from"""
    expected: Float[Tensor, "batch time 3"]
    """the same before it was seen"""
    moves: Float[Tensor, "batch time 2"]
    """along x and y, that led to each from the one before; corrections of the place are not part of it"""
    doubts: Float[Tensor, "batch time 2"]
    """as `Whereabouts.doubt`, when each frame was new"""

    @classmethod
    def none(cls, where: Whereabouts) -> "Followed":
        """No frame at all, for the same players."""
        poses, pairs = where.pose[:, None][:, :0], where.move[:, None][:, :0]
        return cls(poses=poses, expected=poses, moves=pairs, doubts=pairs)

    @classmethod
    def one(cls, where: Whereabouts, expected: Float[Tensor, "batch 3"]) -> "Followed":
        """The frame that is seen from there."""
        return cls(
            poses=where.pose[:, None], expected=expected[:, None], moves=where.move[:, None],
            doubts=where.doubt[:, None],
        )  # fmt: skip

    def part(self, row: int, stop: int) -> "Followed":
        """The first `stop` frames of one of the batch."""
        part = slice(row, row + 1), slice(0, stop)
        return Followed(**{name.name: getattr(self, name.name)[part] for name in fields(self)})

    def ended(self, where: Whereabouts) -> "Followed":
        """The same with the last frame seen from there after all."""
        last = Followed.one(where, self.expected[:, -1])
        length = self.poses.shape[1] - 1
        before = Followed(**{name.name: getattr(self, name.name)[:, :length] for name in fields(self)})
        return joined((before, last), 1)

    def end(self) -> Whereabouts:
        """Where the players are now."""
        return Whereabouts(pose=self.poses[:, -1], move=self.moves[:, -1], doubt=self.doubts[:, -1])
