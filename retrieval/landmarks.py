"""Loop closure: frames seen before tell a player who comes back where they are.

Path integration drifts at every wall that is touched, and a remembered frame is only as good as the offset that is told
of it. So every new frame is registered against the few past ones that should lie nearest; where their views agree, the
player's place is corrected, and with it the offsets to all that was seen on that visit, also of what is out of sight.
Older frames stay where they are: later visits are drawn to the first one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from retrieval.place import PLACE_COLUMNS, PlaceSettings, place_keys, place_queries
from retrieval.spread import spread

LANDMARKS = 4
"""past frames that a new one is registered against"""
APART = 6
"""they lie more than this many frames apart, so that they are several views"""
YOUNGEST = 24
"""younger frames share the player's drift: they have nothing to tell"""
SURE = 2.0
"""logit of two views showing one place from which on their offset counts"""
GAIN = 0.8
"""part of what the landmarks tell that is believed at once"""


@dataclass(frozen=True)
class Landmarks:
    """Past frames that a player may recognise."""

    latents: Float[Tensor, "batch landmark channel height width"]
    poses: Float[Tensor, "batch landmark 3"]
    present: Bool[Tensor, "batch landmark"]


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

    def __init__(self, latents: Float[Tensor, "batch time channel height width"]) -> None:
        batch, time = latents.shape[:2]
        self.latents, self.length = latents, 0
        self.places = torch.zeros(batch, time, PLACE_COLUMNS, device=latents.device)
        self.poses = torch.zeros(batch, time, 3, device=latents.device)

    def add(self, pose: Float[Tensor, "batch 3"]) -> None:
        """The next frame was seen from there."""
        self.poses[:, self.length] = pose
        self.places[:, self.length] = place_keys(pose, PlaceSettings())
        self.length += 1

    def landmarks(self, pose: Float[Tensor, "batch 3"]) -> Landmarks | None:
        """For the frame that comes next; None while all frames are too young."""
        old = self.length + 1 - YOUNGEST
        if old <= 0:
            return None
        allowed = torch.ones(len(pose), old, dtype=torch.bool, device=pose.device)
        frames, found = nearest(self.places[:, :old], pose, allowed)
        rows = torch.arange(len(pose), device=pose.device)[:, None]
        return Landmarks(latents=self.latents[rows, frames], poses=self.poses[rows, frames], present=found)


def correction(
    told: Float[Tensor, "batch landmark 2"],
    seen: Float[Tensor, "batch landmark 2"],
    sure: Bool[Tensor, "batch landmark"],
) -> Float[Tensor, "batch 2"]:
    """How far the player is from where they believe, of the landmarks' places as told and as seen from there.

    The lower median of those that are sure, along each axis; nothing where none is.
    """
    off = torch.where(sure[..., None], told - seen, torch.inf)
    count = sure.sum(1)
    middle = ((count - 1) // 2).clamp(min=0)[:, None, None].expand(-1, 1, 2)
    median = off.sort(1).values.gather(1, middle)[:, 0]
    return GAIN * torch.where((count > 0)[:, None], median, 0.0)
