"""Where frames were seen from, told by all steps and all sightings at once: a pose graph (Lu and Milios 1997).

A filter mends the newest place alone, and what was seen on the way back stays as wrong as it was. Here every step and
every frame that was recognised is a spring between two places, as stiff as it is sure, and the places are those at
which all springs are at rest. Headings are exact, so the springs are linear: each window of frames is one system of
linear equations. What is older stays where it is, so that the cost does not grow with the world.
"""

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from retrieval.whereabouts import Followed

SETTLE_EVERY = 8
"""new frames after which they settle at play"""
WINDOW = 512
"""newest frames whose places are mended"""
STIFFEST = 0.01
"""variance of a step that leaves no doubt, in squared map units"""
BLUR = 2.0
"""variance of what is seen beside what the odometer expects of it: neighbouring views err together"""
HALF_BELIEVED = 9.0
"""times the variance at which a sighting counts half (weights of Cauchy's distribution)"""
ROUNDS = 2
"""solutions, each with weights of the one before"""


def settled(
    followed: Followed, since: int = 0, window: int = WINDOW
) -> tuple[int, Float[Tensor, "batch later 3"]]:
    """Poses that agree best with all that is known, and from which frame on they are new.

    Frames before `since` have been settled before; those that lie a `window` or more before them stay where they are.
    """
    time = followed.poses.shape[1]
    begin = max(1, min(time, since + 1) - window)
    places = followed.poses[..., :2].double()
    # Half windows: a sighting moves what led to it, and what comes later as a whole.
    for stop in [*range(begin + window, time, window // 2), time]:
        if stop > begin:
            places = _settled_window(followed, places, max(begin, stop - window), stop)
    poses = torch.cat((places.float(), followed.poses[..., 2:]), -1)
    return begin, poses[:, begin:]


def _settled_window(
    followed: Followed, places: Float64[Tensor, "batch time 2"], first: int, stop: int
) -> Float64[Tensor, "batch time 2"]:
    """With those from `first` to `stop` mended, and all later ones moved along."""
    springs = _Springs(followed, first, stop)
    new = places.clone()
    for _ in range(ROUNDS):
        new[:, first:stop] += springs.rest(new)
    new[:, stop:] += (new - places)[:, stop - 1 : stop]
    return new


class _Springs:
    """Steps and sightings of some frames: place of `end` − place of `begin` should be `offset`."""

    def __init__(self, followed: Followed, first: int, stop: int) -> None:
        part = slice(first, stop)
        batch, landmarks = len(followed.poses), followed.sighted.shape[2]
        device = followed.poses.device
        self.first, self.count = first, stop - first
        numbers = torch.arange(first, stop, device=device).expand(batch, -1)
        fresh = followed.doubts[:, part, 1] - followed.doubts[:, first - 1 : stop - 1, 1]
        seen = numbers[..., None].expand(-1, -1, landmarks).flatten(1)
        self.begin = torch.cat((numbers - 1, seen), 1)
        self.end = torch.cat((numbers, followed.sighted[:, part].flatten(1)), 1)
        self.offset = torch.cat(
            (followed.moves[:, part], followed.offsets[:, part].flatten(1, 2)), 1
        ).double()
        noise = followed.variances[:, part].flatten(1) + BLUR
        self.variance = torch.cat((fresh.clamp(min=STIFFEST), noise), 1).double()
        self.is_step: Bool[Tensor, " spring"] = torch.arange(self.begin.shape[1], device=device) < self.count

    def rest(self, places: Float64[Tensor, "batch time 2"]) -> Float64[Tensor, "batch {self.count} 2"]:
        """How far the frames are to go from these places: Σ w (e_end − e_begin)(…)ᵀ x = Σ w (e_end − e_begin) off."""
        batch, size = len(places), self.count + 1
        rows = torch.arange(batch, device=places.device)[:, None]
        off = self.offset - (places[rows, self.end] - places[rows, self.begin])
        strange = off.square().sum(2) / (HALF_BELIEVED * self.variance)
        # An infinite variance, nothing seen: no weight.
        weight = torch.where(self.is_step, 1.0, 1 / (1 + strange)) / self.variance
        begin, end = self._row(self.begin), self._row(self.end)
        system = places.new_zeros(batch, size * size)
        for row, column, sign in ((end, end, 1), (begin, begin, 1), (end, begin, -1), (begin, end, -1)):
            system.scatter_add_(1, row * size + column, sign * weight)
        pull = places.new_zeros(batch, size, 2)
        pulled = weight[..., None] * off
        for row, sign in ((end, 1), (begin, -1)):
            pull.scatter_add_(1, row[..., None].expand(-1, -1, 2), sign * pulled)
        # Row 0 stands for all that is fixed.
        factor, _ = torch.linalg.cholesky_ex(system.view(batch, size, size)[:, 1:, 1:])
        return torch.cholesky_solve(pull[:, 1:], factor)

    def _row(self, frames: Int64[Tensor, "batch spring"]) -> Int64[Tensor, "batch spring"]:
        return (frames - self.first + 1).clamp(min=0)
