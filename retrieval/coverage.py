"""Loss and metrics of a descriptor: does query · key rank past frames by their share of the coming view?"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def coverage_loss(
    queries: Float[Tensor, "batch dim"],
    keys: Float[Tensor, "batch n dim"],
    relevance: Float[Tensor, "batch n"],
    valid: Bool[Tensor, "batch n"],
    logit_scale: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """InfoNCE (van den Oord et al. 2018, eq. 4) with soft targets (ListNet's loss, Cao et al. 2007).

    −Σ_n p_n log softmax_n(scale · q·k_n) with p = relevance / Σ relevance, over the valid n of each row;
    relevance ≥ 0 (for instance the share of the coming view that frame n covers). Rows without relevance are
    left out; the mean is over the others, and 0 (with a gradient of 0) if there are none. Computed in
    float32, under autocast too.
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits = logit_scale * torch.einsum("bd,bnd->bn", queries.float(), keys.float())
        # A finite floor: -inf would make NaN gradients in rows where nothing is valid.
        log_probabilities = logits.masked_fill(~valid, -1e9).log_softmax(dim=1)
        target = relevance.float().masked_fill(~valid, 0)
        total = target.sum(1)
        per_row = -(target * log_probabilities).sum(1) / total.clamp_min(1e-12)
        return torch.where(total > 0, per_row, 0).sum() / (total > 0).sum().clamp_min(1)


def recall_at_k(
    scores: Float[Tensor, "batch n"],
    relevance: Float[Tensor, "batch n"],
    valid: Bool[Tensor, "batch n"],
    k: int,
) -> Float[Tensor, ""]:
    """Share of rows whose most relevant valid entry, or its equal, is among the k best-scored.

    In [0, 1]. Rows without relevance are left out; 0 if there are none.
    """
    relevance = relevance.masked_fill(~valid, 0)
    top = scores.masked_fill(~valid, -torch.inf).topk(min(k, scores.shape[1]), dim=1).indices
    best = relevance.amax(1)
    hit = relevance.gather(1, top).amax(1) >= best
    return (hit & (best > 0)).float().sum() / (best > 0).sum().clamp_min(1)


def coverage_at_k(
    scores: Float[Tensor, "batch n"],
    relevance: Float[Tensor, "batch n"],
    valid: Bool[Tensor, "batch n"],
    k: int,
) -> Float[Tensor, ""]:
    """Mean over rows of (best relevance among the k best-scored) / (best relevance of all valid), in [0, 1].

    Softer than `recall_at_k`: the second-best frame that covers nearly as much counts nearly as much.
    """
    relevance = relevance.masked_fill(~valid, 0)
    top = scores.masked_fill(~valid, -torch.inf).topk(min(k, scores.shape[1]), dim=1).indices
    best = relevance.amax(1)
    share = relevance.gather(1, top).amax(1) / best.clamp_min(1e-12)
    return torch.where(best > 0, share, 0).sum() / (best > 0).sum().clamp_min(1)
