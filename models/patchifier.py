"""Patches: the learned projection of one kernel, and the way back from k1 tokens to latents."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.kernel import Kernel
from models.rotary import pad_to_multiple
from models.schedule import Tail

TAIL_CELLS = 32
"""latent cells along a side that become one when a tail is appended"""
COARSEST = 8
"""kernels kN above this average their latents down to it first, as FramePack's k16 does (section 3.1)"""


class LatentPatchifier(nn.Module):
    """The projection of one kernel: latents -> tokens; each rate has weights of its own (FramePack, section 3.1)."""

    def __init__(self, channels: int, kernel: Kernel, width: int) -> None:
        super().__init__()
        self.kernel = kernel
        coarse = kernel.frames > COARSEST and kernel == Kernel.of_rate(kernel.frames)
        self.pool = kernel.frames // COARSEST if coarse else 1
        size = kernel.frames // self.pool, kernel.rows // self.pool, kernel.cols // self.pool
        self.proj = nn.Conv3d(channels, width, kernel_size=size, stride=size)

    def forward(
        self, latents: Float[Tensor, "batch frame channel rows cols"]
    ) -> Float[Tensor, "batch group token width"]:
        """Groups of `kernel.frames` frames; sides that the kernel does not fill are padded with their far edge."""
        video = pad_to_multiple(
            latents.transpose(1, 2), (self.kernel.frames, self.kernel.rows, self.kernel.cols)
        )
        if self.pool > 1:
            video = functional.avg_pool3d(video, self.pool)
        # Patches that do not overlap are a matrix product; oneDNN's bfloat16 Conv3d gives wrong numbers on some CPUs.
        for axis, size in zip((2, 4, 6), self.proj.kernel_size, strict=True):
            video = video.unflatten(axis, (-1, size))
        patches = video.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
        return functional.linear(patches, self.proj.weight.flatten(1), self.proj.bias).flatten(2, 3)

    @torch.no_grad()
    def initialise_from(self, finer: "LatentPatchifier") -> None:
        """Repeat the finer kernel's weights and divide, so that proj_k2(x) = proj_k1(avg_pool3d(x, 2)).

        Where this kernel is the shorter one, weights are summed: even latents become the same token. ValueError if one
        kernel is no multiple of the other along an axis.
        """
        weight = finer.proj.weight
        for axis in (2, 3, 4):
            size, found = self.proj.weight.shape[axis], weight.shape[axis]
            if size % found and found % size:
                raise ValueError(f"kernel {self.kernel} is no multiple of {finer.kernel} and no part of it")
            if size >= found:
                weight = weight.repeat_interleave(size // found, dim=axis) / (size // found)
            else:
                weight = weight.unflatten(axis, (size, found // size)).sum(axis + 1)
        bias = finer.proj.bias
        assert bias is not None
        self.proj.load_state_dict({"weight": weight, "bias": bias})


def tail_cells(
    latents: Float[Tensor, "frame channel height width"], tail: Tail | None
) -> Float[Tensor, "frame channel rows cols"]:
    """What a tail keeps of a frame: every (1, 32, 32) cells as one to append, all as one to compress, else nothing."""
    if tail == "ta":
        return functional.avg_pool2d(latents, TAIL_CELLS, ceil_mode=True, count_include_pad=False)
    return latents.mean((2, 3), keepdim=True) if tail == "tc" else latents[..., :0, :0]


def unpatchify(
    patches: Float[Tensor, "batch frame token patch"], channels: int, rows: int, cols: int
) -> Float[Tensor, "batch frame {channels} height width"]:
    """Inverse of a k1 patchify: (channel, 2, 2) values a token -> latents."""
    batch, frames = patches.shape[:2]
    grid = patches.view(batch, frames, rows, cols, channels, 2, 2)
    return grid.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, frames, channels, 2 * rows, 2 * cols)
