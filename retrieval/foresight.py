"""What stands around the end of a coming step, as past views show it: walls beside and behind a player too.

The newest view shows what lies ahead of it; more than half of the steps that something stops meet what it does not show,
beside or behind the player. But some past frame looked there, nearly always. Such witnesses are chosen by where they were
seen from, and asked whether points around the end of the step are free: an occupancy grid as a
neural field (Mescheder et al. 2019), whose features are sampled at the column of each view that shows the point (as Yu et
al. 2021, pixelNeRF, do).
"""

from dataclasses import dataclass
from math import radians, tan

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from retrieval.motion import turned
from retrieval.spread import candidates_needed, spread

WITNESSES = 5
"""past frames that are asked about a step"""
APART = 2
"""they lie more than this many frames apart"""
NEAREST, IDEAL, FARTHEST = 16.0, 80.0, 320.0
"""distances of what they are asked about, in map units: at least, at best, at most"""
EDGE = 0.95
"""of the half of a view that a point may lie from its middle"""
AGEING = 0.1
"""halvings of the distance that a hundred frames of age are worth: places drift"""
CANDIDATES = candidates_needed(WITNESSES, APART)
"""best frames among which they are chosen"""
LATELY = 2048
"""newest frames of a world among which they are looked for first"""
SIDE, PITCH = 5, 16.0
"""points a side of the grid, and map units between them: a player's half width is 16"""
TOLD, JOINED = 6, 40
"""numbers that witnesses tell of a point, and those that are made of all points"""
PLAYER_HALF = 16.0
"""half of how wide a player is, in map units"""
SCALE = 64.0
"""map units: networks like numbers of size one"""


@dataclass(frozen=True)
class Witnesses:
    """Past frames that may have seen what stands around a place."""

    scans: Float[Tensor, "batch witness scanned width"]
    """what each column of theirs shows, `Foresight.scans`"""
    poses: Float[Tensor, "batch witness 3"]
    present: Bool[Tensor, "batch witness"]

    @classmethod
    def among(
        cls,
        place: Float[Tensor, "batch 2"],
        scans: Float[Tensor, "batch n scanned width"],
        poses: Float[Tensor, "batch n 3"],
        present: Bool[Tensor, "batch n"],
        view_deg: float,
    ) -> "Witnesses":
        """Those of the newest n frames, oldest first, that saw a place which the next step leads to."""
        ages = torch.arange(poses.shape[1], 0, -1, device=place.device).expand(len(place), -1)
        frames, found = choose_witnesses(place, poses, ages, present, view_deg)
        rows = torch.arange(len(place), device=place.device)[:, None]
        return cls(scans=scans[rows, frames], poses=poses[rows, frames], present=found)


def foremost(end: Float[Tensor, "batch 2"], move: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch 2"]:
    """The foremost edge of players whose moves end there: what witnesses should have seen."""
    return end + PLAYER_HALF * functional.normalize(move, dim=1)


def seen_from(
    places: Float[Tensor, "batch point 2"], poses: Float[Tensor, "batch view 3"]
) -> Float[Tensor, "batch view point 2"]:
    """Where places lie, forward and left of views; both in one map."""
    away = places[:, None] - poses[:, :, None, :2]
    return turned(away, -poses[..., 2:].expand(away.shape[:-1]))


def choose_witnesses(
    place: Float[Tensor, "batch 2"],
    poses: Float[Tensor, "batch n 3"],
    ages: Int64[Tensor, "batch n"],
    allowed: Bool[Tensor, "batch n"],
    view_deg: float,
) -> tuple[Int64[Tensor, "batch witness"], Bool[Tensor, "batch witness"]]:
    """Which past frames looked at a place from nearby, and whether there are so many; `ages` count from the step."""
    return _best(_worth(place, poses, ages, allowed, view_deg), ages)


def search_witnesses(
    place: Float[Tensor, "1 2"], poses: Float[Tensor, "n 3"], view_deg: float
) -> tuple[Int64[Tensor, "1 witness"], Bool[Tensor, "1 witness"]]:
    """`choose_witnesses` among all frames of one world, oldest first, however many there are.

    A frame is worth no more than its age leaves it: where enough of the newest are worth more than that of any older one,
    those need not be looked at.
    """
    for first in (max(0, len(poses) - LATELY), 0):
        # Frames that were seen from elsewhere are passed over; one is left always.
        along, across = (poses[first:, :2] - place).unbind(1)
        near = along.square() + across.square() < FARTHEST**2
        near[-1] = True
        numbers = near.nonzero()[:, 0] + first
        ages = len(poses) - numbers[None]
        worth = _worth(place, poses[numbers][None], ages, ages > 0, view_deg)
        if not first or int((worth > -AGEING / 100 * (len(poses) - first)).sum()) >= CANDIDATES:
            break
    chosen, found = _best(worth, ages)
    return numbers[chosen], found


def _worth(
    place: Float[Tensor, "batch 2"],
    poses: Float[Tensor, "batch n 3"],
    ages: Int64[Tensor, "batch n"],
    allowed: Bool[Tensor, "batch n"],
    view_deg: float,
) -> Float[Tensor, "batch n"]:
    """How well each past frame saw a place: at most what its age leaves, -AGEING / 100 a frame; −∞ where it did not."""
    forward, left = seen_from(place[:, None], poses)[:, :, 0].unbind(-1)
    distance = torch.hypot(forward, left)
    inside = (left.abs() < EDGE * tan(radians(view_deg) / 2) * forward) & (forward > NEAREST)
    worth = -(distance / IDEAL).clamp(min=1e-3).log2().abs() - AGEING / 100 * ages
    return worth.masked_fill(~(allowed & inside & (distance < FARTHEST)), -torch.inf)


def _best(
    worth: Float[Tensor, "batch n"], ages: Int64[Tensor, "batch n"]
) -> tuple[Int64[Tensor, "batch witness"], Bool[Tensor, "batch witness"]]:
    """Which of n frames they are by `_worth`, and whether there are so many."""
    best, numbers = worth.topk(min(worth.shape[1], CANDIDATES), dim=1)
    chosen, present = spread(best, ages.gather(1, numbers), WITNESSES, APART, best > -torch.inf)
    return numbers.gather(1, chosen) * present, present


@dataclass(frozen=True)
class Surroundings:
    """What witnesses tell of points around the end of a step."""

    places: Float[Tensor, "batch point 2"]
    told: Float[Tensor, "batch point told"]
    """the first of these numbers is a logit: a player could not stand there"""
    shown: Bool[Tensor, "batch point"]
    """whether any of them looked there"""


class Foresight(nn.Module):
    """One vector of what stands around the end of a step; begins as zeros, to be added to what the newest view tells."""

    def __init__(self, fine: int, height: int, hidden: int, width: int, view_deg: float) -> None:
        super().__init__()
        self.tangent = tan(radians(view_deg) / 2)
        side = torch.arange(SIDE) * PITCH - (SIDE - 1) * PITCH / 2
        self.grid: Tensor
        self.register_buffer("grid", torch.cartesian_prod(side, side), persistent=False)
        self.scan = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, hidden, (height, 1)))
        self.ask = nn.Sequential(
            nn.Linear(hidden + 5, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, TOLD + 1)
        )
        self.join = nn.Sequential(
            nn.SiLU(), nn.Linear(SIDE**2 * TOLD, JOINED), nn.SiLU(), nn.Linear(JOINED, width)
        )
        for parameter in self.join[-1].parameters():
            nn.init.zeros_(parameter)

    def scans(self, views: Float[Tensor, "batch fine height width"]) -> Float[Tensor, "batch scanned width"]:
        """What each column shows of views that are known cell by cell, `TwoViews.alone`: once a frame, for all steps."""
        scanned: Tensor = self.scan(views)
        return scanned[:, :, 0]

    def forward(
        self, end: Float[Tensor, "batch 3"], witnesses: Witnesses
    ) -> Float[Tensor, "batch head_width"]:
        """`end` is where the step would lead if nothing stood in the way, and its heading."""
        return self.joined(self.asked(end, witnesses))

    def joined(self, found: Surroundings) -> Float[Tensor, "batch head_width"]:
        """What is told of all points, as one vector."""
        vector: Tensor = self.join(found.told.flatten(1).to(next(self.join.parameters()).dtype))
        return vector

    def asked(self, end: Float[Tensor, "batch 3"], witnesses: Witnesses) -> Surroundings:
        """What witnesses tell of the points around that end."""
        count, number = witnesses.present.shape[1], next(self.ask.parameters()).dtype
        around = turned(self.grid.float().expand(len(end), -1, -1), end[:, 2:].expand(-1, len(self.grid)))
        places = end[:, None, :2] + around
        forward, left = seen_from(places, witnesses.poses).unbind(-1)
        ahead = forward.clamp(min=4.0)
        column = -left / ahead / self.tangent
        shown = (forward > 4.0) & (column.abs() < 1) & witnesses.present[..., None]
        scans = witnesses.scans.flatten(0, 1).float()[:, :, None]
        where = torch.stack((column.clamp(-1.2, 1.2), torch.zeros_like(column)), -1).flatten(0, 1)[:, None]
        found = functional.grid_sample(scans, where, padding_mode="border", align_corners=False)
        found = found[:, :, 0].transpose(1, 2).unflatten(0, (-1, count))
        numbers = torch.stack(
            (forward / SCALE, left / SCALE, ahead.log2() - 6, SCALE / ahead / 4, shown.float()), -1
        )
        told = self.ask(torch.cat((found.to(number), numbers.to(number)), -1)).float()
        # Whom to believe of a point: none says nothing of it, as if everyone were silent.
        weight = told[..., -1].exp().clamp(max=1e4) * shown
        means = (told[..., :-1] * weight[..., None]).sum(1) / (weight.sum(1)[..., None] + 1.0)
        return Surroundings(places=places, told=means, shown=shown.any(1))
