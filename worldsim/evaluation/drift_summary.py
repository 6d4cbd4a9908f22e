"""What series of frames come to: first and last parts, their difference, and rollouts that ended flat."""

import numpy as np
from jaxtyping import Bool, Float

from worldsim.evaluation.bootstrap import cluster_bootstrap, ratio_bootstrap

METRICS = ("sharpness", "brightness", "contrast", "colourfulness", "motion")
SHARE = 0.15
"""Drift compares the first and the last 15 % of a rollout (FramePack, section 4)."""
COLLAPSE = 0.25
"""A rollout has collapsed when the median contrast of its last part is below this share of real play's."""


def edge(frames: int) -> int:
    """Frames in the first or last 15 % of a rollout."""
    return max(1, round(SHARE * frames))


def has_collapsed(
    contrast: Float[np.ndarray, "rollout frame"], real_contrast: Float[np.ndarray, "other frame"]
) -> Bool[np.ndarray, " rollout"]:
    """Whether a rollout ended as flat colour: median contrast of its last part below a quarter of real play's."""
    return np.median(contrast[:, -edge(contrast.shape[1]) :], axis=1) < COLLAPSE * np.median(real_contrast)


def summarise(series: dict[str, dict[str, np.ndarray]], maps: np.ndarray, seed: int) -> dict:
    """Means of the first and last parts, drift, ratio to real play at the end, and collapsed rollouts.

    `series[source][metric]` is `(rollout, frame)` for the sources model, real and autoencoder.
    """
    metrics: dict[str, dict] = {}
    for name in METRICS:
        metrics[name] = {}
        real = series["real"][name]
        for source, each in series.items():
            values = each[name]
            size = edge(values.shape[1])
            first, last = values[:, :size].mean(axis=1), values[:, -size:].mean(axis=1)
            metrics[name][source] = {
                "first": float(first.mean()),
                "last": float(last.mean()),
                "drift_of_mean": float(abs(first.mean() - last.mean())),
                "drift": cluster_bootstrap(abs(first - last), maps, np.random.default_rng(seed)),
                "ratio_to_real_last": ratio_bootstrap(
                    last, real[:, -size:].mean(axis=1), maps, np.random.default_rng(seed)
                ),
            }
    collapsed = {
        source: int(has_collapsed(each["contrast"], series["real"]["contrast"]).sum())
        for source, each in series.items()
    }
    size = edge(next(iter(series["real"].values())).shape[1])
    by_rollout = {
        name: {
            source: {
                "first": each[name][:, :size].mean(axis=1).tolist(),
                "last": each[name][:, -size:].mean(axis=1).tolist(),
            }
            for source, each in series.items()
        }
        for name in METRICS
    }
    by_frame = {source: each["sharpness"].mean(axis=0).tolist() for source, each in series.items()}
    return {
        "rollouts": len(maps), "metrics": metrics, "collapsed": collapsed, "sharpness_by_frame": by_frame,
        "by_rollout": by_rollout,
    }  # fmt: skip
