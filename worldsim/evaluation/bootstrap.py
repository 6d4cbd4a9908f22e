"""Confidence intervals by a bootstrap over clusters (maps): starts on one map are not independent."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    mean: float
    low: float
    high: float


def cluster_bootstrap(
    values: Float[np.ndarray, " samples"],
    clusters: Shaped[np.ndarray, " samples"],
    rng: np.random.Generator,
    n: int = 2000,
) -> Interval:
    """Mean of `values` and its 95 % percentile interval over `n` resamplings of whole clusters.

    For a paired comparison pass the differences: one start's modes then stay together.
    """
    return ratio_bootstrap(values, np.ones_like(values), clusters, rng, n)


def ratio_bootstrap(
    numerators: Float[np.ndarray, " samples"],
    denominators: Float[np.ndarray, " samples"],
    clusters: Shaped[np.ndarray, " samples"],
    rng: np.random.Generator,
    n: int = 2000,
) -> Interval:
    """sum(numerators) / sum(denominators) and its 95 % interval; all NaN where
    the denominators are zero.

    Raises:
        ValueError: no samples.
    """
    if len(numerators) == 0:
        raise ValueError("no samples to take a mean of; ask for one start or more")
    _, member = np.unique(clusters, return_inverse=True)
    count = int(member.max()) + 1
    top = np.bincount(member, weights=numerators, minlength=count)
    bottom = np.bincount(member, weights=denominators, minlength=count)
    drawn = rng.integers(0, count, size=(n, count))
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1)
        centre = float(top.sum() / bottom.sum())
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) == 0 or not np.isfinite(centre):
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(centre, float(low), float(high))


def recovery(
    off: Float[np.ndarray, " samples"],
    mode: Float[np.ndarray, " samples"],
    oracle: Float[np.ndarray, " samples"],
    clusters: Shaped[np.ndarray, " samples"],
    rng: np.random.Generator,
) -> Interval:
    """(off - mode) / (off - oracle) of errors; NaN unless the oracle beats no memory."""
    if (off - oracle).sum() <= 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    return ratio_bootstrap(off - mode, off - oracle, clusters, rng)
