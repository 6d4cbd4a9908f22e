"""Where frames were seen from, relative to each other: features of moves, and rotary phases of world directions."""

from math import log2, radians, tan

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.rotary import axis_frequencies

NEAREST, FARTHEST = 16.0, 2048.0
"""wavelengths of the features of a place, in map units"""
OCTAVES = int(log2(FARTHEST / NEAREST)) + 1
TURN_WAVES = 4
MOVE_FEATURES = 4 * OCTAVES + 2 * TURN_WAVES


def relative_poses(
    poses: Float[Tensor, "batch n 3"], origin: Float[Tensor, "batch 3"]
) -> Float[Tensor, "batch n 3"]:
    """Poses (x, y, heading in degrees) as seen from another: forward, left, and how far turned left."""
    offset = poses[..., :2] - origin[:, None, :2]
    heading = torch.deg2rad(origin[:, None, 2])
    cos, sin = heading.cos(), heading.sin()
    forward = offset[..., 0] * cos + offset[..., 1] * sin
    left = offset[..., 1] * cos - offset[..., 0] * sin
    return torch.stack((forward, left, poses[..., 2] - origin[:, None, 2]), -1)


def move_features(relative: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch feature"]:
    """Sines and cosines of forward, left and turn; distances far beyond FARTHEST repeat, turns as they should."""
    octaves = 2.0 ** torch.arange(OCTAVES, device=relative.device)
    lengths = relative[..., :2, None] * (2 * torch.pi / FARTHEST) * octaves
    waves = torch.arange(1, TURN_WAVES + 1, device=relative.device)
    turns = torch.deg2rad(relative[..., 2:]) * waves
    angles = torch.cat((lengths.flatten(-2), turns), -1)
    return torch.cat((angles.cos(), angles.sin()), -1)


def column_directions_deg(cols: int, view_deg: float) -> Float[Tensor, " {cols}"]:
    """How far left of the view's middle each of `cols` columns of tokens looks, through a pinhole."""
    across = 1 - (2 * torch.arange(cols) + 1) / cols
    return torch.rad2deg(torch.atan(across * tan(radians(view_deg) / 2)))


def direction_waves(columns_a_turn: float, half: int) -> Float[Tensor, " {half}"]:
    """Waves around the circle of every channel: those of columns, rounded to whole ones: a full turn is no turn."""
    return (columns_a_turn * axis_frequencies(2 * half) / (2 * torch.pi)).round()


def direction_phases(
    directions_deg: Float[Tensor, "*batch"], waves: Float[Tensor, " half"]
) -> tuple[Float[Tensor, "*batch half"], Float[Tensor, "*batch half"]]:
    """Cosines and sines of directions, right positive as columns are.

    Within one view they turn nearly as the columns' do, so that heads of a model that was trained with columns go on
    finding what they found.
    """
    angles = -torch.deg2rad(directions_deg)[..., None] * waves
    return angles.cos(), angles.sin()


class MoveEmbedding(nn.Module):
    """What the model is told of where frames were seen from: a vector a frame. Begins as zeros, so that it can join a
    trained model."""

    def __init__(self, width: int, hidden: int = 128) -> None:
        super().__init__()
        self.enter = nn.Linear(MOVE_FEATURES, hidden)
        self.tokens = nn.Linear(hidden, width)
        self.steer = nn.Linear(hidden, width)
        for layer in (self.tokens, self.steer):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def of_groups(
        self, relative: Float[Tensor, "batch frame 3"], frames: int
    ) -> Float[Tensor, "batch group width"]:
        """For the tokens of groups of neighbouring frames, by their mean."""
        features = move_features(relative).unflatten(1, (-1, frames)).mean(2)
        return self.tokens(functional.silu(self.enter(features.to(self.enter.weight.dtype))))

    def of_section(self, relative: Float[Tensor, "batch frame 3"]) -> Float[Tensor, "batch frame width"]:
        """For the conditions of the frames to be made: where the newest frame lies from each of them."""
        features = move_features(relative).to(self.enter.weight.dtype)
        return self.steer(functional.silu(self.enter(features)))
