"""Recall during training: the same queries, scores and spread as at play, for whole batches of episodes at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrieval.descriptor import LearnedDescriptor, PooledDescriptor
from retrieval.spread import spread
from worldsim.presets import Preset
from worldsim.recall import make_queries, score_all
from worldsim.training.data import LatentEpisodes
from worldsim.training.moments import Moments


@dataclass(frozen=True, kw_only=True)
class RecallMixture:
    """How often training recalls which way; the rest of the time it recalls by the hybrid score, as play does."""

    off: float = 0.15
    """without memory, so that the model does not lean on what is absent"""
    oracle: float = 0.15
    """by the true coming view"""
    random: float = 0.05
    """any past frames"""


@dataclass(frozen=True)
class EpisodeKeys:
    """Descriptor keys of every frame of every episode."""

    learned: Float[Tensor, "episode time dim"]
    pooled: Float[Tensor, "episode time pooled_dim"]


@dataclass(frozen=True)
class Picks:
    """Frames recalled for a batch of moments."""

    frames: Int[Tensor, "batch recalled"]
    present: Bool[Tensor, "batch recalled"]


@torch.no_grad()
def episode_keys(
    episodes: LatentEpisodes, descriptor: LearnedDescriptor, pooled: PooledDescriptor
) -> EpisodeKeys:
    """Keys of all frames, in float16."""
    learned, by_pool = [], []
    for latents in episodes.latents:
        chunk = latents.float()
        learned.append(descriptor.keys(chunk).half())
        by_pool.append(pooled.keys(chunk).half())
    return EpisodeKeys(learned=torch.stack(learned), pooled=torch.stack(by_pool))


class BatchRecall:
    """Chooses past frames for moments of recorded episodes."""

    def __init__(
        self,
        keys: EpisodeKeys,
        descriptor: LearnedDescriptor,
        pooled: PooledDescriptor,
        sizes: Preset,
        mixture: RecallMixture,
    ) -> None:
        self.keys, self.descriptor, self.pooled, self.sizes, self.mixture = (
            keys,
            descriptor,
            pooled,
            sizes,
            mixture,
        )

    @torch.no_grad()
    def pick(
        self,
        moments: Moments,
        recent: Float[Tensor, "batch recent channel height width"],
        present: Bool[Tensor, "batch recent"],
        actions: Int[Tensor, "batch step factor"],
        coming: Float[Tensor, "batch section channel height width"],
        generator: torch.Generator,
    ) -> Picks:
        """Frames older than the recent context; each moment draws its way of recall from the mixture."""
        schedule, settings = self.sizes.schedule, self.sizes.recall
        keys = self.keys.learned[moments.episode]
        numbers = torch.arange(keys.shape[1], device=keys.device)
        ages = moments.time[:, None] - numbers
        queries = make_queries(self.descriptor, recent, present, actions, schedule.section)
        scores = score_all(keys, queries, ages, settings)
        way = torch.rand(len(moments), generator=generator, device=keys.device)[:, None]
        oracle = torch.einsum(
            "bnd,bd->bn", self.keys.pooled[moments.episode], self.pooled.keys(coming[:, -1]).half()
        ).float()
        chance = torch.rand(scores.shape, generator=generator, device=keys.device)
        mixture = self.mixture
        scores = torch.where(way < mixture.oracle, oracle, scores)
        scores = torch.where(
            (way >= mixture.oracle) & (way < mixture.oracle + mixture.random), chance, scores
        )
        valid = (ages > schedule.recent_frames) & (way < 1 - mixture.off)
        frames, found = spread(
            scores,
            numbers.expand(scores.shape).contiguous(),
            schedule.recalled.frames,
            settings.gap_frames,
            valid,
        )
        return Picks(frames=frames, present=found)
