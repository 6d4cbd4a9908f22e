"""Openings: short recorded beginnings that new worlds start from."""

from pathlib import Path

import torch

from worldsim.openings import Openings, save_openings
from worldsim.training.data import LatentEpisodes

OPENINGS, FRAMES = 12, 4


def keep_openings(episodes: LatentEpisodes, folder: Path, seed: int) -> None:
    """Write a few frames of as many different episodes as there are, up to 12, into the checkpoint folder."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(episodes), generator=generator)[:OPENINGS].to(episodes.latents.device)
    latents, actions = episodes.latents[order, :FRAMES], episodes.actions[order, :FRAMES]
    save_openings(Openings(latents=latents, actions=actions), folder)
