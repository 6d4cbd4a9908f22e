"""The similarity formulas of FramePack's similarity packing, and ours, as pure functions.

The paper sums the cosine over latent pixels and leaves its weight against time open. Here the cosine is the
*mean* over pixels, so that both terms are at most 1 and a weight means the same at every size of frame: the
paper's sum is height·width times `latent_cosine`, its λ_time is height·width times `time_weight`, and the
order is the same.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def latent_cosine(
    frames: Float[Tensor, "*batch n channel height width"],
    query: Float[Tensor, "*batch channel height width"],
) -> Float[Tensor, "*batch n"]:
    """sim_cos: (1/hw)·Σ_p F_p · X̂_pᵀ / (‖F_p‖ ‖X̂_p‖) over latent pixels p, in [−1, 1]."""
    unit_frames = F.normalize(frames.float(), dim=-3)
    unit_query = F.normalize(query.float(), dim=-3)
    return torch.einsum("...nchw,...chw->...n", unit_frames, unit_query) / (query.shape[-2] * query.shape[-1])


def gaussian_time(times_s: Float[Tensor, "*n"], query_time_s: float) -> Float[Tensor, "*n"]:
    """sim_time: exp(−(time(F) − time(X̂))²), times in seconds, in [0, 1]."""
    return torch.exp(-((times_s - query_time_s) ** 2))


def exponential_time(ages_frames: Float[Tensor, "n"], time_constant: float) -> Float[Tensor, "n"]:
    """exp(−age/τ), in frames, in [0, 1]. Ours: it factorises into key and query (`HybridIndex`)."""
    if time_constant <= 0:
        raise ValueError(
            f"time_constant {time_constant} is not above 0 frames; give the age at which time counts 1/e"
        )
    return torch.exp(-ages_frames / time_constant)


def hybrid(cosine: Float[Tensor, "*n"], time: Float[Tensor, "*n"], time_weight: float) -> Float[Tensor, "*n"]:
    """sim_hybrid: cosine + weight · time."""
    return cosine + time_weight * time


def paper_hybrid(
    frames: Float[Tensor, "n channel height width"],
    times_s: Float[Tensor, "n"],
    query: Float[Tensor, "channel height width"],
    query_time_s: float,
    time_weight: float,
) -> Float[Tensor, "n"]:
    """sim_hybrid as the paper ranks by: sim_cos + λ_time · sim_time, both normalised as this module says."""
    return hybrid(latent_cosine(frames, query), gaussian_time(times_s, query_time_s), time_weight)
