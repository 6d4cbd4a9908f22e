"""Do rollouts turn and move as their actions say? Judged by a network that has seen real play alone."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from worldsim.evaluation.bootstrap import Interval, cluster_bootstrap
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.inverse_dynamics import (
    InverseDynamics,
    InverseDynamicsTraining,
    as_told,
    fit_inverse_dynamics,
    judged_moves,
)

EPISODES, FRAMES = 96, 300
"""most episodes and frames of each that the judge is trained on"""
FEWEST = 4
"""with fewer episodes that are not rolled out, the judge learns from those that are as well"""


def action_fidelity(
    judge: InverseDynamics,
    told: Sequence[Float[Tensor, "_ 3"]],
    shown: Mapping[str, Sequence[UInt8[Tensor, "_ height width 3"]]],
    maps: Int64[np.ndarray, " rollout"],
    part: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Interval]]]:
    """Share of steps that turn, and that move, as told: one figure for each source of frames.

    `told` has one row for each frame of a rollout (`told_moves`); `shown` is what each source shows of the same steps, up
    to the last frame, and before the first one if the source knows it. Over all steps, and the first and last `part`.
    """
    agree = {
        source: [
            torch.stack(agreement(judge, frames_u8, wanted[1 - len(frames_u8) :])).double()
            for frames_u8, wanted in zip(each, told, strict=True)
        ]
        for source, each in shown.items()
    }
    return {
        name: {
            source: {
                when: cluster_bootstrap(
                    np.array([float(each[i, steps].mean()) for each in rows]),
                    maps,
                    np.random.default_rng(seed),
                )
                for when, steps in (
                    ("all", slice(None)),
                    ("first", slice(part)),
                    ("last", slice(-part, None)),
                )
            }
            for source, rows in agree.items()
        }
        for i, name in enumerate(("turns", "moves"))
    }


def fit_judge(
    held_out: HeldOut, rolled_out: set[int], steps: int, device: torch.device, seed: int
) -> InverseDynamics:
    """A judge trained on real play of other episodes than those that are rolled out."""
    return fit_inverse_dynamics(
        real_play(held_out, rolled_out), device, InverseDynamicsTraining(steps=steps), seed
    )


def agreement(
    judge: InverseDynamics, frames_u8: UInt8[Tensor, "n height width 3"], told: Float[Tensor, "n-1 3"]
) -> tuple[Bool[Tensor, " n-1"], Bool[Tensor, " n-1"]]:
    """Which steps turn, and which move, as told."""
    return as_told(judged_moves(judge, frames_u8), told)


def real_play(
    held_out: HeldOut, rolled_out: set[int]
) -> Iterator[tuple[UInt8[Tensor, "_ height width 3"], Float[np.ndarray, "_ 4"]]]:
    """Frames and poses for the judge, of other episodes than those that are rolled out, where there are enough."""
    others = [index for index in range(len(held_out.paths)) if index not in rolled_out]
    chosen = others if len(others) >= FEWEST else range(len(held_out.paths))
    for index in list(chosen)[:EPISODES]:
        frames = np.arange(min(held_out.lengths[index], FRAMES))
        yield held_out.read(index, frames), held_out.poses[index][frames]
