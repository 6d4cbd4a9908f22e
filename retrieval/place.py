"""Nearness of places and headings as an inner product, so that one FAISS search can rank by it."""

from dataclasses import dataclass
from math import degrees

import torch
from jaxtyping import Float
from torch import Tensor

PLACE_COLUMNS = 8


@dataclass(frozen=True, kw_only=True)
class PlaceSettings:
    """How much a difference of place or heading costs, against a cosine of at most 1."""

    heading_weight: float = 1.0
    """cost of a turn by `heading_width_deg`; a turn's cost grows as its chord, up to a half turn's"""
    position_weight: float = 1.0
    """cost of either width below; it grows as the square"""
    heading_width_deg: float = 40.0
    focus_distance: float = 96.0
    """map units: a view is represented by the point this far ahead, and by where it was seen from"""
    focus_width: float = 90.0
    """map units between two such points"""
    position_width: float = 160.0
    """map units between the places that two views were seen from"""


def place_vectors(
    poses: Float[Tensor, "n 3"], settings: PlaceSettings
) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n 2"]]:
    """Points of places and of headings, each such that their squared distance is the difference in widths."""
    heading = torch.deg2rad(poses[:, 2:].double())
    ahead = torch.cat((heading.cos(), heading.sin()), 1)
    position = poses[:, :2].double()
    focus = position + settings.focus_distance * ahead
    places = torch.cat((focus / settings.focus_width, position / settings.position_width), 1)
    return places, degrees(1) / settings.heading_width_deg * ahead


def place_keys(poses: Float[Tensor, "n 3"], settings: PlaceSettings) -> Float[Tensor, "n columns"]:
    """Columns of past frames, whatever the weights: key · query is minus the cost, in one exact search."""
    places, headings = place_vectors(poses, settings)
    squares = places.square().sum(1, keepdim=True)
    return torch.cat((places, headings, squares, torch.ones_like(squares)), 1).float()


def place_queries(poses: Float[Tensor, "n 3"], settings: PlaceSettings) -> Float[Tensor, "n columns"]:
    """Columns of poses that are about to be seen from: −w_p |p − p′|² − w_h |h − h′|², multiplied out."""
    places, headings = place_vectors(poses, settings)
    far, turned = settings.position_weight, settings.heading_weight
    constant = far * places.square().sum(1, keepdim=True) + 2 * turned * headings.square().sum(
        1, keepdim=True
    )
    weights = torch.full_like(constant, -far)
    return torch.cat((2 * far * places, 2 * turned * headings, weights, -constant), 1).float()
