"""How far the statistics of made frames are from real play's, in features of our own autoencoder: no download needed."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def latent_features(
    latents: Float[Tensor, "n channel height width"],
) -> Float[Tensor, "n feature"]:
    """Of each channel of a latent the mean of every quarter and the deviation over the whole: what a frame is made of."""
    quarters = functional.adaptive_avg_pool2d(latents.float(), 2).flatten(1)
    return torch.cat((quarters, latents.float().flatten(2).std(2, correction=0)), 1)


def frechet_distance(a: Float[Tensor, "n feature"], b: Float[Tensor, "m feature"]) -> float:
    """|μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), as FID (Heusel et al. 2017, eq. 6).

    ValueError for fewer than 2 rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"{len(a)} and {len(b)} frames have no covariance; give 2 or more of each")
    a, b = a.double(), b.double()
    means = (a.mean(0) - b.mean(0)).square().sum()
    first, second = torch.cov(a.T), torch.cov(b.T)
    # The root of a product of two covariances has the trace of the root of Σ_a^½ Σ_b Σ_a^½, which is symmetric.
    values, vectors = torch.linalg.eigh(first)
    half = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(half @ second @ half).clamp(min=0).sqrt().sum()
    return float((means + first.trace() + second.trace() - 2 * cross).clamp(min=0))


def feature_distances(
    made: Sequence[Float[Tensor, "frame channel h w"]],
    real: Sequence[Float[Tensor, "frame channel h w"]],
    size: int,
) -> dict[str, dict[str, float]]:
    """Fréchet distance of the first and the last `size` frames of all rollouts to all of real play, and of real play's."""
    everything = latent_features(torch.cat(list(real)))
    return {
        source: {
            "first": frechet_distance(latent_features(torch.cat([one[:size] for one in each])), everything),
            "last": frechet_distance(latent_features(torch.cat([one[-size:] for one in each])), everything),
        }
        for source, each in (("model", made), ("real", real))
    }
