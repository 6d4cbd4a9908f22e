"""Loop closure: frames seen before tell a player who comes back where they are.

Path integration drifts at every wall that is touched, and a remembered frame is only as good as the offset that is told
of it. So every new frame is registered against the few past ones that should lie nearest; where their views agree, the
player's place is corrected, and with it the offsets to all that was seen on that visit, also of what is out of sight.
What has been seen on the way stays where it is until all places settle (`retrieval.pose_graph`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from retrieval.foresight import Witnesses
from retrieval.place import PLACE_COLUMNS, PlaceSettings, place_keys, place_queries
from retrieval.spread import spread
from retrieval.whereabouts import LANDMARKS, Whereabouts

APART = 6
"""they lie more than this many frames apart, so that they are several views"""
YOUNGEST = 24
"""younger frames share the player's drift: they have nothing to tell"""
SURE = 2.0
"""logit from which on two views show one place"""
STEP_DOUBT = 1.0
"""variance along either axis that a step adds that goes as told, in squared map units"""
CAUTION = 3.0
"""times the variance that the odometer expects of what it sees: errors of neighbouring frames come together"""
FARFETCHED = 100.0
"""times the variance that is expected: what lies farther off is another place"""


@dataclass(frozen=True)
class Landmarks:
    """Past frames that a player may recognise."""

    latents: Float[Tensor, "batch landmark channel height width"]
    frames: Int64[Tensor, "batch landmark"]
    """their numbers"""
    poses: Float[Tensor, "batch landmark 3"]
    present: Bool[Tensor, "batch landmark"]
    doubts: Float[Tensor, "batch landmark"]
    """variance that had ever come up when each was new, `Whereabouts.doubt`'s second"""


def nearest(
    places: Float[Tensor, "batch n columns"],
    pose: Float[Tensor, "batch 3"],
    allowed: Bool[Tensor, "batch n"],
) -> tuple[Int64[Tensor, "batch landmark"], Bool[Tensor, "batch landmark"]]:
    """Which past frames lie nearest by place and heading, and whether there are so many; `places` are `place_keys`."""
    near = torch.einsum("bnc,bc->bn", places, place_queries(pose, PlaceSettings()))
    numbers = torch.arange(places.shape[1], device=places.device).expand(near.shape)
    return spread(near, numbers.contiguous(), LANDMARKS, APART, allowed)


class Trail:
    """Where a batch of players has been so far, frame by frame: what they may recognise."""

    def __init__(
        self,
        latents: Float[Tensor, "batch time channel height width"],
        scans: Float[Tensor, "batch time scanned width"],
    ) -> None:
        batch, time = latents.shape[:2]
        self.latents, self.scans, self.length = latents, scans, 0
        self.places = torch.zeros(batch, time, PLACE_COLUMNS, device=latents.device)
        self.poses = torch.zeros(batch, time, 3, device=latents.device)
        self.doubts = torch.zeros(batch, time, device=latents.device)

    def add(self, where: Whereabouts) -> None:
        """The next frame was seen from there."""
        self.poses[:, self.length] = where.pose
        self.places[:, self.length] = place_keys(where.pose, PlaceSettings())
        self.doubts[:, self.length] = where.doubt[:, 1]
        self.length += 1

    def landmarks(self, pose: Float[Tensor, "batch 3"]) -> Landmarks | None:
        """For the frame that comes next; None while all frames are too young."""
        old = self.length + 1 - YOUNGEST
        if old <= 0:
            return None
        allowed = torch.ones(len(pose), old, dtype=torch.bool, device=pose.device)
        frames, found = nearest(self.places[:, :old], pose, allowed)
        rows = torch.arange(len(pose), device=pose.device)[:, None]
        return Landmarks(
            latents=self.latents[rows, frames], frames=frames, poses=self.poses[rows, frames], present=found,
            doubts=self.doubts[rows, frames],
        )  # fmt: skip

    def witnesses(self, place: Float[Tensor, "batch 2"], view_deg: float) -> Witnesses:
        """Frames that saw a place which the next step leads to."""
        past = slice(0, self.length)
        present = torch.ones(len(place), self.length, dtype=torch.bool, device=place.device)
        return Witnesses.among(place, self.scans[:, past], self.poses[:, past], present, view_deg)


def recognition(
    off: Float[Tensor, "batch landmark 2"],
    noise: Float[Tensor, "batch landmark"],
    doubts: Float[Tensor, "batch landmark"],
    doubt: Float[Tensor, "batch 2"],
    sure: Bool[Tensor, "batch landmark"],
) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, "batch 2"]]:
    """How far players are from where they believe to be, and what is doubtful then: a Kalman filter (Kalman 1960).

    `off` is how far each landmark lies from where it is seen, `noise` the variance of that along either axis.
    Between a player and a landmark stands the doubt that has come up since it was new, and no more than is left: a
    player who only turned knows better than any view.
    """
    shift, left, ever = torch.zeros_like(doubt), doubt[:, 0], doubt[:, 1]
    for i in range(off.shape[1]):
        between = torch.minimum(left, ever - doubts[:, i])
        surprise = off[:, i] - shift
        believed = sure[:, i] & (surprise.square().sum(1) < 2 * FARFETCHED * (between + noise[:, i]))
        gain = believed * between / (between + noise[:, i])
        shift = shift + gain[:, None] * surprise
        left = left - gain * between
    return shift, torch.stack((left, ever), 1)
