"""Dead reckoning: where a player is, told by the actions alone, until something stands in the way."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Integer
from torch import Tensor

TURN_STEPS = 3
"""how many of the newest choices of the turning factor tell the turn of a step: games turn slowly at first"""
FREE_WIDTH = 1.0
"""map units: a step nearer than this to what the actions tell was not stopped by anything"""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How a player turns and moves, as tables over actions; plain numbers, so that a checkpoint keeps them exactly.

    Places are `(x, y)` in map units and headings degrees, counter-clockwise, both from the first frame's.
    """

    sizes: tuple[int, ...]
    """choices of each action factor; 0 is none"""
    turn_factor: int
    """the action factor that turns"""
    turns_deg: tuple[float, ...]
    """turn of a step for every row of its TURN_STEPS newest choices, the oldest choice counts most"""
    carry: float
    """share of the last step's move that goes on by itself"""
    thrust: tuple[tuple[float, float], ...]
    """forward and left push of every joint action in its own step, in map units"""
    after: tuple[tuple[float, float], ...]
    """what it pushes in the step after"""

    def __post_init__(self) -> None:
        joint = int(np.prod(self.sizes))
        turns = self.sizes[self.turn_factor] ** TURN_STEPS
        if (len(self.turns_deg), len(self.thrust), len(self.after)) != (turns, joint, joint):
            raise ValueError(
                f"motion tables of {len(self.turns_deg)}, {len(self.thrust)}, {len(self.after)} rows do not fit "
                f"actions {self.sizes}: want {turns}, {joint}, {joint}"
            )

    @classmethod
    def still(cls, sizes: tuple[int, ...]) -> "Motion":
        """Nothing that is pressed turns or moves anybody: before anything is known."""
        nothing = ((0.0, 0.0),) * int(np.prod(sizes))
        turns = (0.0,) * sizes[0] ** TURN_STEPS
        return cls(sizes=sizes, turn_factor=0, turns_deg=turns, carry=0.0, thrust=nothing, after=nothing)

    @classmethod
    def of_json(cls, tables: dict[str, Any]) -> "Motion":
        """From its fields, as `asdict` gives them or JSON gives them back."""
        pushes = {name: tuple((push[0], push[1]) for push in tables[name]) for name in ("thrust", "after")}
        sequences = {name: tuple(tables[name]) for name in ("sizes", "turns_deg")}
        return cls(**{**tables, **pushes, **sequences})

    def turns(self, actions: Integer[Tensor, "batch step factor"]) -> Float[Tensor, "batch step"]:
        """Turn of every step in degrees, left positive; before the first action nothing was pressed."""
        return _look_up(self.turns_deg, _turn_rows(actions, self.turn_factor, self.sizes))

    def free_moves(
        self, actions: Integer[Tensor, "batch step factor"], headings_deg: Float[Tensor, "batch step"]
    ) -> Float[Tensor, "batch step 2"]:
        """What the actions push, without what goes on from the move before; `headings_deg` are those after each step."""
        rows = joint_rows(actions, self.sizes)
        middle = headings_deg - self.turns(actions) / 2
        now = turned(_look_up(self.thrust, rows), middle)
        later = turned(_look_up(self.after, rows), middle)
        return now + torch.nn.functional.pad(later, (0, 0, 1, 0))[:, :-1]


def joint_rows(actions: Integer[Tensor, "*batch factor"], sizes: tuple[int, ...]) -> Int64[Tensor, "*batch"]:
    """One number for all factors of an action together."""
    rows = torch.zeros(actions.shape[:-1], dtype=torch.int64, device=actions.device)
    for i, size in enumerate(sizes):
        rows = rows * size + actions[..., i].long()
    return rows


def turned(
    vectors: Float[Tensor, "*batch 2"], angles_deg: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 2"]:
    """Vectors turned counter-clockwise: from forward and left of a view to x and y, if the angle is its heading."""
    angle = torch.deg2rad(angles_deg)
    x, y = vectors.unbind(-1)
    return torch.stack((x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()), -1)


def directions(degrees: Float[Tensor, " batch"]) -> Float[Tensor, "batch 2"]:
    """Angles as networks like them: cosine and sine."""
    angle = torch.deg2rad(degrees)
    return torch.stack((angle.cos(), angle.sin()), 1)


def offset_from(
    poses: Float[Tensor, "*batch 3"], own: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 2"]:
    """How far forward and left of one player others are; poses are x, y and heading in degrees."""
    return turned(poses[..., :2] - own[..., :2], -own[..., 2].expand(poses.shape[:-1]))


def traced_back(
    pose: Float[Tensor, "*batch 3"], moves: Float[Tensor, "*batch n 2"], headings: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n 3"]:
    """Poses of the newest n frames, told by the newest one's and by the moves that led to each.

    Not by where each was believed to be when it was new: a correction since then would look like a jump.
    """
    later = moves.flip(-2).cumsum(-2).flip(-2) - moves
    return torch.cat((pose[..., None, :2] - later, headings[..., None]), -1)


def _turn_rows(
    actions: Integer[Tensor, "batch step factor"], factor: int, sizes: tuple[int, ...]
) -> Int64[Tensor, "batch step"]:
    choices = torch.nn.functional.pad(actions[..., factor].long(), (TURN_STEPS - 1, 0))
    windows = choices.unfold(1, TURN_STEPS, 1)
    return joint_rows(windows, (sizes[factor],) * TURN_STEPS)


def _look_up(table: tuple[Any, ...], rows: Int64[Tensor, "*batch"]) -> Tensor:
    return _on_device(table, rows.device)[rows]


@cache
def _on_device(table: tuple[Any, ...], device: torch.device) -> Tensor:
    """Copied once: a copy would make every step wait for the device, and cannot be part of a CUDA graph."""
    return torch.tensor(table, dtype=torch.float32, device=device)


def fit_motion(
    actions: Integer[Tensor, "episode time factor"],
    poses: Float[Tensor, "episode time 4"],
    lengths: Integer[Tensor, " episode"],
    sizes: tuple[int, ...],
) -> tuple[Motion, float, float]:
    """The tables that recorded poses (x, y, z, yaw_deg) tell; `actions[t]` led to frame `t`.

    Returns the largest error of a turn in degrees and the share of steps that moved as the tables tell. ValueError
    if too few steps have finite poses.
    """
    poses, actions = poses.double().cpu(), actions.long().cpu()
    real = torch.arange(1, poses.shape[1]) < lengths.cpu()[:, None]
    real &= poses.isfinite().all(-1).unfold(1, 2, 1).all(-1)
    if int(real.sum()) < 100:
        raise ValueError(
            f"{int(real.sum())} recorded steps have poses, motion needs 100 or more; record with poses"
        )
    turn_deg = ((poses[:, 1:, 3] - poses[:, :-1, 3] + 180) % 360 - 180).numpy()
    factor, turns, error_deg = _fit_turns(turn_deg, actions, real.numpy(), sizes)
    carry, thrust, after, free = _fit_moves(poses, actions, real, sizes)
    motion = Motion(
        sizes=sizes, turn_factor=factor, turns_deg=tuple(turns.tolist()), carry=carry,
        thrust=tuple(map(tuple, thrust.tolist())), after=tuple(map(tuple, after.tolist())),
    )  # fmt: skip
    return motion, error_deg, free


def _fit_turns(
    turn_deg: Float64[np.ndarray, "episode step"], actions: Tensor, real: np.ndarray, sizes: tuple[int, ...]
) -> tuple[int, Float64[np.ndarray, " row"], float]:
    """The factor whose choices tell the turns best, the median turn of every row of choices, the largest error."""
    fits = []
    for factor, size in enumerate(sizes):
        rows = _turn_rows(actions, factor, sizes)[:, 1:].numpy()
        table = np.zeros(size**TURN_STEPS)
        for row in range(len(table)):
            here = turn_deg[real & (rows == row)]
            table[row] = np.median(here) if len(here) else 0.0
        errors = np.abs(turn_deg - table[rows])[real]
        fits.append((errors.mean(), factor, table, float(errors.max())))
    _, factor, table, largest = min(fits, key=lambda fit: fit[0])
    return factor, table, largest


def _fit_moves(
    poses: Tensor, actions: Tensor, real: Tensor, sizes: tuple[int, ...]
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """carry, thrust and after by least squares, and the share of steps that they tell.

    Steps that something stood in the way of are left out by concentration (least trimmed squares, Rousseeuw and
    Van Driessen 2006). The action of no choice pushes nothing.
    """
    moves = poses[:, 1:, :2] - poses[:, :-1, :2]
    middle = poses[:, :-1, 3] + ((poses[:, 1:, 3] - poses[:, :-1, 3] + 180) % 360 - 180) / 2
    joint = int(np.prod(sizes))
    angle = torch.deg2rad(middle)
    forward = torch.stack((angle.cos(), angle.sin()), -1)
    left = torch.stack((-angle.sin(), angle.cos()), -1)
    chosen = torch.nn.functional.one_hot(joint_rows(actions[:, 1:], sizes), joint).double()[..., 1:]
    # (episode, step, axis, action × side): each action's own push forward and left, seen along x and y.
    told = torch.einsum("btj,btas->btajs", chosen, torch.stack((forward, left), -1)).flatten(3)
    both = (real[:, 1:] & real[:, :-1]).flatten()
    columns = torch.cat((moves[:, :-1, :, None], told[:, 1:], told[:, :-1]), -1)
    x = columns.flatten(0, 1)[both].flatten(0, 1).numpy()
    y = moves[:, 1:].flatten(0, 1)[both].flatten().numpy()
    kept = np.ones(len(y), bool)
    for _ in range(12):
        # A ridge: an action that was never taken pushes nothing.
        square = x[kept].T @ x[kept] + 1e-3 * np.eye(x.shape[1])
        weights = np.linalg.solve(square, x[kept].T @ y[kept])
        errors = np.abs(x @ weights - y)
        kept = errors < max(FREE_WIDTH, 3 * float(np.median(errors)))
    pushes = np.zeros((2, joint, 2))
    pushes[:, 1:] = weights[1:].reshape(2, joint - 1, 2)
    return float(weights[0]), pushes[0], pushes[1], float(kept.reshape(-1, 2).all(1).mean())
