"""How offsets are learned: their distance from the truth, and how well it was expected."""

from math import log

from jaxtyping import Bool, Float
from torch import Tensor

from retrieval.offset import Offset

SPREAD_WEIGHT = 0.1
"""of how well distances from the truth are expected, beside these themselves"""


def offset_loss(
    found: Offset, true: Float[Tensor, "batch 2"], counts: Bool[Tensor, " batch"], scale: float
) -> Float[Tensor, ""]:
    """Mean distance from the truth in scales, and how badly it was expected, where it counts.

    The expectation learns from the distance, never the other way round: b in e^(−r/b) / 2πb², whose mean is 2b.
    """
    distance = (found.offset - true).square().sum(1).add(1e-4).sqrt() / scale
    spread = found.log_spread - log(scale)
    expected = 2 * distance.detach() * (-spread).exp() + 2 * spread
    return mean_of(distance + SPREAD_WEIGHT * expected, counts)


def mean_of(values: Float[Tensor, " batch"], of: Bool[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Over some of the batch; 0 if these are none."""
    return (values * of).sum() / of.sum().clamp(min=1)
