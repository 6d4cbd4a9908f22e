"""Openings: short recorded beginnings that new worlds start from."""

from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from worldsim.openings import Openings, save_openings
from worldsim.training.data import LatentEpisodes

OPENINGS, FRAMES = 48, 1
"""one frame, from which a player looks around as well as from several: the file has room for four times as many worlds"""
COARSE = (3, 4)
"""rows and columns that views are compared by"""


def keep_openings(episodes: LatentEpisodes, folder: Path, seed: int) -> None:
    """Write the first frames of the episodes that begin most unlike each other, up to 48, into the checkpoint folder."""
    chosen = most_unlike(episodes.latents[:, 0].float(), OPENINGS, seed)
    latents, actions = episodes.latents[chosen, :FRAMES], episodes.actions[chosen, :FRAMES]
    save_openings(Openings(latents=latents, actions=actions), folder)


def most_unlike(
    views: Float[Tensor, "view channel height width"], count: int, seed: int
) -> Int64[Tensor, " chosen"]:
    """Numbers of up to `count` views, each as far as can be from those before it; the seed chooses the first.

    Farthest-point sampling (Gonzalez 1985) in the views' coarse means. Where there are plenty, the half whose parts differ
    least are left out: bare walls.
    """
    cells = functional.adaptive_avg_pool2d(views, COARSE).flatten(2)
    plenty = torch.arange(len(views), device=views.device)
    if len(views) >= 2 * count:
        plenty = cells.var(dim=2).sum(1).argsort(descending=True)[: len(views) // 2]
    coarse = cells[plenty].flatten(1)
    chosen = [int(torch.randint(len(coarse), (1,), generator=torch.Generator().manual_seed(seed)))]
    nearest = (coarse - coarse[chosen[0]]).norm(dim=1)
    while len(chosen) < min(count, len(coarse)):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (coarse - coarse[chosen[-1]]).norm(dim=1))
    return plenty[torch.tensor(chosen, device=views.device)]
