"""Choose k of n candidates over places rather than over neighbours in time."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional


def candidates_needed(count: int, gap_frames: int) -> int:
    """How many best-scored candidates make `spread` choose as it would among all frames.

    Frames have distinct integer times, so a taken one suppresses at most 2·gap + 1 of them, itself included.
    Before the last choice at most (count − 1)·(2·gap + 1) are suppressed: one candidate more always holds the
    best one left. No such bound exists with `max_similarity`.
    """
    if count < 1 or gap_frames < 0:
        raise ValueError(
            f"count {count} and gap_frames {gap_frames}: count must be 1 or more, the gap 0 or more"
        )
    return (count - 1) * (2 * gap_frames + 1) + 1


def spread(
    scores: Float[Tensor, "batch n"],
    times: Int64[Tensor, "batch n"],
    count: int,
    gap_frames: int,
    valid: Bool[Tensor, "batch n"],
    keys: Float[Tensor, "batch n dim"] | None = None,
    max_similarity: float = 1.0,
) -> tuple[Int64[Tensor, "batch count"], Bool[Tensor, "batch count"]]:
    """Greedy by score: take the best, drop all within `gap_frames` of it in time, repeat `count` times.

    With unit `keys`, candidates whose cosine with a taken one exceeds `max_similarity` are dropped too.
    Returns positions into n, best first, and whether each is a real choice; where none was left the position
    is 0 and the flag false (real choices always come first). Equal scores: the lower position wins. Scores of
    invalid entries may be anything, NaN included. Runs on the tensors' device without waiting for it, and
    without gradients.
    """
    if count < 0 or gap_frames < 0:
        raise ValueError(f"count {count} and gap_frames {gap_frames}: both must be 0 or more")
    if scores.shape[1] == 0 or count == 0:
        empty = torch.zeros(scores.shape[0], count, dtype=torch.int64, device=scores.device)
        return empty, empty.bool()
    left = scores.detach().masked_fill(~valid, -torch.inf)
    choices, flags = [], []
    for _ in range(count):
        best_score, best = left.max(dim=1, keepdim=True)
        found = best_score > -torch.inf
        drop = (times - times.gather(1, best)).abs() <= gap_frames
        if keys is not None:
            taken = keys.detach().gather(1, best[..., None].expand(-1, -1, keys.shape[2]))
            drop = drop | ((keys.detach() * taken).sum(2) > max_similarity)
        left = left.masked_fill(drop, -torch.inf)
        choices.append(best.masked_fill(~found, 0))
        flags.append(found)
    return torch.cat(choices, 1), torch.cat(flags, 1)


def best_of_rest(
    scores: Float[Tensor, "batch n"],
    count: int,
    valid: Bool[Tensor, "batch n"],
    taken: Int64[Tensor, "batch k"],
    real: Bool[Tensor, "batch k"],
) -> tuple[Int64[Tensor, "batch count"], Bool[Tensor, "batch count"]]:
    """Positions of the `count` best valid entries without those `taken` where that is `real`, the best last.

    Flags say which are real choices; they come last, the position of the others is 0. Equal scores: the lower position
    counts as the better one.
    """
    left = scores.detach().masked_fill(~valid, -torch.inf)
    found = torch.zeros(left.shape[0], left.shape[1] + 1, dtype=torch.bool, device=left.device)
    found.scatter_(1, torch.where(real, taken, left.shape[1]), True)
    left = left.masked_fill(found[:, :-1], -torch.inf)
    values, order = left.sort(dim=1, descending=True, stable=True)
    missing = max(0, count - left.shape[1])
    values = functional.pad(values[:, :count], (0, missing), value=-torch.inf).flip(1)
    order = functional.pad(order[:, :count], (0, missing)).flip(1)
    return order.masked_fill(values == -torch.inf, 0), values > -torch.inf
