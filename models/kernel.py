"""Patchify kernels: how many latent cells become one token."""

import re
from dataclasses import dataclass
from math import ceil

_KERNEL = re.compile(r"k([1-9]\d*)(?:h([1-9]\d*)w([1-9]\d*))?")


@dataclass(frozen=True)
class Kernel:
    """Patchify kernel in latent cells; the paper's kN is N times (1, 2, 2) along every axis (FramePack, table 1)."""

    frames: int
    rows: int
    cols: int

    @classmethod
    def of_rate(cls, rate: int) -> "Kernel":
        """k1 = (1, 2, 2), k2 = (2, 4, 4), k4 = (4, 8, 8), …"""
        return cls(frames=rate, rows=2 * rate, cols=2 * rate)

    @classmethod
    def parse(cls, text: str) -> "Kernel":
        """`kN`, or a kernel written out: `k1h8w8` is (1, 8, 8). ValueError names the token."""
        match = _KERNEL.fullmatch(text)
        if match is None:
            raise ValueError(f"kernel {text!r} is neither kN nor kThRwC, e.g. k2 or k1h8w8")
        if match[2] is None:
            return cls.of_rate(int(match[1]))
        return cls(frames=int(match[1]), rows=int(match[2]), cols=int(match[3]))

    def __str__(self) -> str:
        if self == Kernel.of_rate(self.frames):
            return f"k{self.frames}"
        return f"k{self.frames}h{self.rows}w{self.cols}"

    @property
    def rate(self) -> int:
        """N of kN. ValueError for a kernel of another shape."""
        if self != Kernel.of_rate(self.frames):
            raise ValueError(f"kernel {self} is no multiple of k1; it has no rate")
        return self.frames

    @property
    def cells(self) -> int:
        """Latent cells a token: the product that the paper's λ^i counts."""
        return self.frames * self.rows * self.cols

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Token rows and columns of one group of frames whose latents are `height` x `width` cells."""
        return ceil(height / self.rows), ceil(width / self.cols)

    def tokens(self, height: int, width: int) -> int:
        """Tokens of one group."""
        rows, cols = self.token_grid(height, width)
        return rows * cols


@dataclass(frozen=True)
class Level:
    """`frames` consecutive history frames that pass through one kernel, in groups of `kernel.frames`."""

    frames: int
    kernel: Kernel

    @property
    def groups(self) -> int:
        return self.frames // self.kernel.frames

    def __str__(self) -> str:
        return f"{self.frames}{self.kernel}"
