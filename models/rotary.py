"""Rotary phases over (time, row, column), pooled for compressed tokens (FramePack, section 3.1)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from models.kernel import Kernel

THETA = 256.0  # as HunyuanVideo: axes are short, so low frequencies would be wasted


@dataclass(frozen=True)
class Phases:
    """Rotary phases of tokens: one set for most heads, one for the last heads, which know directions of the world."""

    cos: Float[Tensor, "token half"]
    sin: Float[Tensor, "token half"]
    world_cos: Float[Tensor, "batch token half"] | None = None
    """differs from world to world; None where no head has it"""
    world_sin: Float[Tensor, "batch token half"] | None = None

    def rotate(
        self, x: Float[Tensor, "batch head token dim"], world_heads: int
    ) -> Float[Tensor, "batch head token dim"]:
        """Turn queries or keys; the last `world_heads` heads by the phases of the world."""
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        if self.world_cos is None or self.world_sin is None:
            return rotate(x, cos, sin)
        plain = rotate(x[:, :-world_heads], cos, sin)
        world_cos, world_sin = self.world_cos[:, None].to(x.dtype), self.world_sin[:, None].to(x.dtype)
        return torch.cat((plain, rotate(x[:, -world_heads:], world_cos, world_sin)), 1)

    def kept(self, keep: Bool[Tensor, " token"]) -> "Phases":
        """Those of some tokens."""
        world = (self.world_cos, self.world_sin)
        cos, sin = (None if each is None else each[:, keep] for each in world)
        return Phases(cos=self.cos[keep], sin=self.sin[keep], world_cos=cos, world_sin=sin)

    def followed_by(self, others: "Phases") -> "Phases":
        """Those of these tokens and then of others."""
        world = [
            None if first is None or second is None else torch.cat((first, second), 1)
            for first, second in ((self.world_cos, others.world_cos), (self.world_sin, others.world_sin))
        ]
        cos, sin = torch.cat((self.cos, others.cos)), torch.cat((self.sin, others.sin))
        return Phases(cos=cos, sin=sin, world_cos=world[0], world_sin=world[1])

    def rows(self, change: Callable[[Tensor], Tensor]) -> "Phases":
        """With what differs from world to world changed so."""
        cos, sin = (None if each is None else change(each) for each in (self.world_cos, self.world_sin))
        return Phases(cos=self.cos, sin=self.sin, world_cos=cos, world_sin=sin)

    def repeated(self, times: int) -> "Phases":
        """Those of several equal sections, one after the other."""
        world = (self.world_cos, self.world_sin)
        cos, sin = (None if each is None else each.repeat(1, times, 1) for each in world)
        return Phases(
            cos=self.cos.repeat(times, 1), sin=self.sin.repeat(times, 1), world_cos=cos, world_sin=sin
        )


def axis_split(head_dim: int) -> tuple[int, int, int]:
    """Even numbers of channels for time, rows and columns; a quarter goes to time."""
    time = head_dim // 4 // 2 * 2
    rows = (head_dim - time) // 2 // 2 * 2
    return time, rows, head_dim - time - rows


def axis_frequencies(dim: int) -> Float[Tensor, " half"]:
    """Radians a step along an axis that has `dim` channels of a head (Su et al. 2021)."""
    return THETA ** -(torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def grid_phases(
    times: Float[Tensor, " time"], rows: int, cols: int, head_dim: int, cells: tuple[int, int] = (2, 2)
) -> tuple[Float[Tensor, "time {rows} {cols} half"], Float[Tensor, "time {rows} {cols} half"]]:
    """Cosines and sines of a grid: `half` = head_dim / 2 angles a place, times may skip and be negative.

    Places are latent `cells` high and wide; positions count k1 tokens, (2, 2) cells, from the middle of the first.
    """
    across = [(torch.arange(n) + 0.5) * size / 2 - 0.5 for n, size in zip((rows, cols), cells, strict=True)]
    axes = (times, *across)
    angles = []
    for axis, (positions, dim) in enumerate(zip(axes, axis_split(head_dim), strict=True)):
        angle = torch.outer(positions.float(), axis_frequencies(dim))
        shape = [1, 1, 1, angle.shape[1]]
        shape[axis] = angle.shape[0]
        angles.append(angle.view(shape).expand(len(times), rows, cols, -1))
    angle = torch.cat(angles, dim=-1)
    return angle.cos(), angle.sin()


def kernel_phases(
    times: Float[Tensor, " time"], height: int, width: int, head_dim: int, kernel: Kernel
) -> tuple[Float[Tensor, "token half"], Float[Tensor, "token half"]]:
    """Phases of a kernel's tokens of latents: the k1 grid's, pooled; of single cells where a side is finer than k1's."""
    cells = min(2, kernel.rows), min(2, kernel.cols)
    rows, cols = Kernel(1, *cells).token_grid(height, width)
    stride = kernel.frames, kernel.rows // cells[0], kernel.cols // cells[1]
    return pooled_phases(times, rows, cols, head_dim, stride, cells)


def pooled_phases(
    times: Float[Tensor, " time"],
    rows: int,
    cols: int,
    head_dim: int,
    stride: tuple[int, int, int],
    cells: tuple[int, int] = (2, 2),
) -> tuple[Float[Tensor, "token half"], Float[Tensor, "token half"]]:
    """Phases of tokens that cover `stride` places of a grid of `cells`: average pool after replicate pad."""
    pooled = []
    for phases in grid_phases(times, rows, cols, head_dim, cells):
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
    cos: Float[Tensor, "*world token half"],
    sin: Float[Tensor, "*world token half"],
) -> Float[Tensor, "batch head token dim"]:
    """Turn channel i against channel i + dim/2 by the token's angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
