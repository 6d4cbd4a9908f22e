"""History discretisation: every latent pixel of the history becomes its nearest code (FramePack, section 3.3).

A model that sees codes cannot see the small errors of its own frames, so they do not add up; too few codes, and it does
not see much else either.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

FIT_BATCH = 4096
"""pixels a step of the mini-batch K-Means"""


class Codebook(nn.Module):
    """Ω, K codes of C channels: Q(F)_p = argmin_k ‖F_p − Ω_k‖, and the history is Ω_Q(F)."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.codes: Tensor
        self.register_buffer("codes", torch.zeros(codes, channels))

    def numbers(
        self, latents: Float[Tensor, "*batch channel height width"]
    ) -> Int[Tensor, "*batch height width"]:
        """Q: the number of every pixel's nearest code."""
        pixels, codes = latents.movedim(-3, -1).float(), self.codes.float()
        # ‖x − c‖² without ‖x‖², which is the same for every code.
        return (codes.square().sum(1) - 2 * pixels @ codes.T).argmin(-1)

    def forward(
        self, latents: Float[Tensor, "*batch channel height width"]
    ) -> Float[Tensor, "*batch channel height width"]:
        """Ω_Q(F)."""
        return self.codes.to(latents.dtype)[self.numbers(latents)].movedim(-1, -3)


@dataclass(frozen=True)
class CodebookReport:
    """How well a codebook stands for latents."""

    variance_kept: float
    """1 − ‖F − Ω_Q(F)‖² / ‖F − mean F‖², the mean of each channel: 1 loses nothing"""
    dead_codes: int
    """codes that no pixel is nearest to"""


def fit_codebook(
    pixels: Float[Tensor, "pixel channel"], codes: int, seed: int = 0
) -> Float[Tensor, "{codes} channel"]:
    """K-Means over latent pixels (scikit-learn's mini-batch). ValueError if there are fewer pixels than codes."""
    if not 1 <= codes <= len(pixels):
        raise ValueError(
            f"{codes} codes for {len(pixels)} latent pixels; use 1 code or more and as many pixels or more"
        )
    # Takes a second to import, and only fitting needs it.
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(codes, random_state=seed, batch_size=FIT_BATCH, n_init=1, max_no_improvement=20)
    means.fit(pixels.float().cpu().numpy())
    return torch.from_numpy(means.cluster_centers_).float()


def report(codebook: Codebook, latents: Float[Tensor, "n channel height width"]) -> CodebookReport:
    """Of latents that it was not fitted to, best."""
    lost = (latents - codebook(latents)).float().square().sum()
    mean = latents.float().mean((0, 2, 3), keepdim=True)
    used = codebook.numbers(latents).unique()
    return CodebookReport(
        variance_kept=1 - float(lost / (latents.float() - mean).square().sum()),
        dead_codes=len(codebook.codes) - len(used),
    )
