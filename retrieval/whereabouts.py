"""Where players are, and what is known of the frames that they were followed over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

STILL = 0.5
"""map units: a move shorter than that leaves no doubt"""
LANDMARKS = 4
"""past frames that a new one is registered against"""

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
    bump: Float[Tensor, "batch 2"]
    """what of it was not told by the actions: where something stood in the way, it mostly still does"""
    doubt: Float[Tensor, "batch 2"]
    """variance of the place along either axis, in squared map units: what is left of it, and all that ever came up"""

    @classmethod
    def origin(cls, batch: int, device: torch.device | str = "cpu") -> "Whereabouts":
        """Where worlds begin, beyond doubt."""
        nothing = torch.zeros(batch, 2, device=device)
        return cls(pose=torch.zeros(batch, 3, device=device), move=nothing, bump=nothing, doubt=nothing)

    def of(self, row: int) -> "Whereabouts":
        """One of the batch."""
        part = slice(row, row + 1)
        return Whereabouts(**{name.name: getattr(self, name.name)[part] for name in fields(self)})

    def moved(
        self,
        move: Float[Tensor, "batch 2"],
        free: Float[Tensor, "batch 2"],
        heading: Float[Tensor, " batch"],
        doubt: Float[Tensor, " batch"],
    ) -> "Whereabouts":
        """A step further along x and y, of which the actions told `free`, and which adds that variance."""
        pose = torch.cat((self.pose[:, :2] + move, heading[:, None]), 1)
        fresh = doubt * (free.norm(dim=1) > STILL)
        return Whereabouts(pose=pose, move=move, bump=move - free, doubt=self.doubt + fresh[:, None])

    def shifted(self, shift: Float[Tensor, "batch 2"]) -> "Whereabouts":
        """The same players a little aside; their last moves stay."""
        return replace(self, pose=torch.cat((self.pose[:, :2] + shift, self.pose[:, 2:]), 1))


@dataclass(frozen=True)
class Sightings:
    """Past frames that players have recognised in what they see."""

    frames: Int64[Tensor, "batch landmark"]
    """their numbers"""
    offsets: Float[Tensor, "batch landmark 2"]
    """how each lies from where it is seen, along x and y"""
    variances: Float[Tensor, "batch landmark"]
    """of that along either axis; infinite: not recognised"""

    @classmethod
    def none(cls, batch: int, count: int, device: torch.device | str) -> "Sightings":
        """Nothing is recognised."""
        return cls(
            frames=torch.zeros(batch, count, dtype=torch.int64, device=device),
            offsets=torch.zeros(batch, count, 2, device=device),
            variances=torch.full((batch, count), torch.inf, device=device),
        )


@dataclass(frozen=True)
class Followed:
    """What is known of frames that were followed."""

    poses: Float[Tensor, "batch time 3"]
    """where each was seen from"""
    expected: Float[Tensor, "batch time 3"]
    """the same before it was seen"""
    moves: Float[Tensor, "batch time 2"]
    """along x and y, that led to each from the one before; corrections of the place are not part of it"""
    bumps: Float[Tensor, "batch time 2"]
    """what of these was not told by the actions"""
    doubts: Float[Tensor, "batch time 2"]
    """as `Whereabouts.doubt`, when each frame was new"""
    sighted: Int64[Tensor, "batch time landmark"]
    """past frames that were recognised in each, as in `Sightings`"""
    offsets: Float[Tensor, "batch time landmark 2"]
    variances: Float[Tensor, "batch time landmark"]

    @classmethod
    def none(cls, where: Whereabouts) -> "Followed":
        """No frame at all, for the same players."""
        return cls.one(where, where.pose).each(lambda known: known[:, :0])

    @classmethod
    def one(
        cls, where: Whereabouts, expected: Float[Tensor, "batch 3"], seen: Sightings | None = None
    ) -> "Followed":
        """The frame that is seen from there, and what is recognised in it."""
        seen = seen or Sightings.none(len(where.pose), LANDMARKS, where.pose.device)
        return cls(
            poses=where.pose[:, None], expected=expected[:, None], moves=where.move[:, None],
            bumps=where.bump[:, None], doubts=where.doubt[:, None], sighted=seen.frames[:, None],
            offsets=seen.offsets[:, None], variances=seen.variances[:, None],
        )  # fmt: skip

    @classmethod
    def of_poses(cls, poses: Float[Tensor, "batch time 3"]) -> "Followed":
        """Frames that are beyond doubt to have been seen from there, and in which nothing is recognised."""
        batch, time = poses.shape[:2]
        moves = torch.zeros_like(poses[..., :2])
        moves[:, 1:] = poses[:, 1:, :2] - poses[:, :-1, :2]
        seen = Sightings.none(batch * time, LANDMARKS, poses.device)
        # Tensors of their own: `put` writes into them.
        return cls(
            poses=poses, expected=poses.clone(), moves=moves,
            bumps=torch.zeros_like(moves), doubts=torch.zeros_like(moves),
            sighted=seen.frames.unflatten(0, (batch, time)), offsets=seen.offsets.unflatten(0, (batch, time)),
            variances=seen.variances.unflatten(0, (batch, time)),
        )  # fmt: skip

    def part(self, row: int, stop: int) -> "Followed":
        """The first `stop` frames of one of the batch."""
        return self.each(lambda known: known[row : row + 1, :stop])

    def each(self, change: Callable[[Tensor], Tensor]) -> "Followed":
        """The same with all that is known changed so: some rows, some frames."""
        return Followed(**{name.name: change(getattr(self, name.name)) for name in fields(Followed)})

    def room(self, length: int) -> "Followed":
        """The same with room for more frames, `length` in all."""

        def grown(known: Tensor) -> Tensor:
            more = known.new_zeros(len(known), length - known.shape[1], *known.shape[2:])
            return torch.cat((known, more), 1)

        return self.each(grown)

    def put(self, frames: "Followed", first: int) -> None:
        """Write what is known of some frames, from that number on."""
        part = slice(first, first + frames.poses.shape[1])
        for name in fields(self):
            getattr(self, name.name)[:, part] = getattr(frames, name.name)

    def ended(self, where: Whereabouts, seen: Sightings) -> "Followed":
        """The same with the last frame seen from there after all, and that recognised in it."""
        last = Followed.one(where, self.expected[:, -1], seen)
        return joined((self.each(lambda known: known[:, :-1]), last), 1)

    def at(self, rows: Int64[Tensor, " n"], frames: Int64[Tensor, " n"]) -> Whereabouts:
        """Where players of those rows were at those frames."""
        return Whereabouts(
            pose=self.poses[rows, frames], move=self.moves[rows, frames], bump=self.bumps[rows, frames],
            doubt=self.doubts[rows, frames],
        )  # fmt: skip

    def end(self) -> Whereabouts:
        """Where the players are now."""
        rows = torch.arange(len(self.poses), device=self.poses.device)
        return self.at(rows, torch.full_like(rows, self.poses.shape[1] - 1))
