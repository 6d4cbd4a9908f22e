"""How much of a coming view a past frame shows, estimated from true poses: the descriptor's training target."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldsim.training.data import LatentEpisodes


@dataclass(frozen=True, kw_only=True)
class CovisibilitySettings:
    """Widths of the kernels, in map units (a room is 256 wide) and degrees (the view is 90 wide)."""

    focus_distance: float = 96.0
    """a view is represented by the point this far ahead"""
    focus_width: float = 90.0
    """distance between two such points at which the value has fallen to 1/e"""
    position_width: float = 160.0
    """the same for the places that the two frames were seen from"""
    yaw_width_deg: float = 40.0
    """the same for the headings"""
    other_room: float = 0.3
    """factor where the two frames were seen from different rooms: a wall may stand between"""


def covisibility(
    poses: Float[Tensor, "batch n 4"],
    rooms: Int[Tensor, "batch n"],
    target_pose: Float[Tensor, "batch 4"],
    target_room: Int[Tensor, " batch"],
    settings: CovisibilitySettings,
) -> Float[Tensor, "batch n"]:
    """In [0, 1]; below 0.05 counts as nothing. A product of Gaussians over focus point, position and heading."""
    target = target_pose[:, None]
    focus = _focus(poses, settings) - _focus(target, settings)
    turned = (poses[..., 3] - target[..., 3] + 180) % 360 - 180
    exponent = (
        (focus.square().sum(-1) / settings.focus_width**2)
        + ((poses[..., :2] - target[..., :2]).square().sum(-1) / settings.position_width**2)
        + (turned / settings.yaw_width_deg).square()
    )
    value = torch.exp(-exponent) * torch.where(rooms == target_room[:, None], 1.0, settings.other_room)
    return torch.where(value < 0.05, 0.0, value)


def coverage(
    episodes: LatentEpisodes,
    episode: Int[Tensor, " batch"],
    time: Int[Tensor, " batch"],
    frames: Int[Tensor, "batch n"],
    present: Bool[Tensor, "batch n"],
) -> Float[Tensor, " batch"]:
    """How much of frame `time` the best of some present frames of its episode shows, in [0, 1]."""
    rows = episode[:, None]
    seen = covisibility(
        episodes.poses[rows, frames], episodes.rooms[rows, frames].long(),
        episodes.poses[episode, time], episodes.rooms[episode, time].long(), CovisibilitySettings(),
    )  # fmt: skip
    return (seen * present).amax(1)


def _focus(poses: Float[Tensor, "batch n 4"], settings: CovisibilitySettings) -> Float[Tensor, "batch n 2"]:
    yaw = torch.deg2rad(poses[..., 3])
    return poses[..., :2] + settings.focus_distance * torch.stack((torch.cos(yaw), torch.sin(yaw)), -1)
