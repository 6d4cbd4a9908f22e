"""Rotary phases over (time, row, column), pooled for compressed tokens (FramePack, section 3.1)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

THETA = 256.0  # as HunyuanVideo: axes are short, so low frequencies would be wasted


def axis_split(head_dim: int) -> tuple[int, int, int]:
    """Even numbers of channels for time, rows and columns; a quarter goes to time."""
    time = head_dim // 4 // 2 * 2
    rows = (head_dim - time) // 2 // 2 * 2
    return time, rows, head_dim - time - rows


def grid_phases(
    times: Float[Tensor, " time"], rows: int, cols: int, head_dim: int
) -> tuple[Float[Tensor, "time {rows} {cols} half"], Float[Tensor, "time {rows} {cols} half"]]:
    """Cosines and sines of the k1 grid: `half` = head_dim / 2 angles a token, times may skip and be negative."""
    axes = (times, torch.arange(rows, dtype=torch.float32), torch.arange(cols, dtype=torch.float32))
    angles = []
    for axis, (positions, dim) in enumerate(zip(axes, axis_split(head_dim), strict=True)):
        frequencies = THETA ** -(torch.arange(0, dim, 2, dtype=torch.float32) / dim)
        angle = torch.outer(positions.float(), frequencies)
        shape = [1, 1, 1, angle.shape[1]]
        shape[axis] = angle.shape[0]
        angles.append(angle.view(shape).expand(len(times), rows, cols, -1))
    angle = torch.cat(angles, dim=-1)
    return angle.cos(), angle.sin()


def pooled_phases(
    times: Float[Tensor, " time"], rows: int, cols: int, head_dim: int, stride: tuple[int, int, int]
) -> tuple[Float[Tensor, "token half"], Float[Tensor, "token half"]]:
    """Phases of tokens that cover `stride` = kernel / (1, 2, 2) cells of the k1 grid: average pool after replicate pad."""
    pooled = []
    for phases in grid_phases(times, rows, cols, head_dim):
        channels_first = phases.permute(3, 0, 1, 2)[None]
        padded = pad_to_multiple(channels_first, stride)
        pooled.append(functional.avg_pool3d(padded, stride)[0].flatten(1).T.contiguous())
    return pooled[0], pooled[1]


def pad_to_multiple(
    x: Float[Tensor, "batch channel time height width"], kernel: tuple[int, int, int]
) -> Float[Tensor, "batch channel padded_time padded_height padded_width"]:
    """Replicate-pad at the far ends so that every axis is a multiple of the kernel."""
    missing = [-size % step for size, step in zip(x.shape[2:], kernel, strict=True)]
    if not any(missing):
        return x
    return functional.pad(x, (0, missing[2], 0, missing[1], 0, missing[0]), mode="replicate")


def rotate(
    x: Float[Tensor, "batch head token dim"],
    cos: Float[Tensor, "token half"],
    sin: Float[Tensor, "token half"],
) -> Float[Tensor, "batch head token dim"]:
    """Turn channel i against channel i + dim/2 by the token's angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
