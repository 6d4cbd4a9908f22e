"""Recall during training: the same queries, scores and spread as at play, for whole batches of episodes at once."""

from dataclasses import dataclass, fields, replace
from operator import itemgetter

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from retrieval.descriptor import LearnedDescriptor
from retrieval.motion import traced_back
from retrieval.odometer import Odometer
from retrieval.place import place_keys
from retrieval.pose_graph import settled
from retrieval.spread import best_of_rest, spread
from retrieval.whereabouts import Followed, joined
from worldsim.presets import Preset
from worldsim.recall import PLACE, least_score, make_queries, score_all, score_latents, score_places
from worldsim.training.data import LatentEpisodes
from worldsim.training.moments import Moments, Pasts

MARKED_AT_ONCE = 512
"""episodes that the odometer follows at once"""
SETTLED_AT_ONCE = 32
"""episodes whose poses are mended at once: a square of numbers for every one"""


@dataclass(frozen=True, kw_only=True)
class RecallMixture:
    """How often training recalls which way; the rest of the time it recalls by the hybrid score, as play does."""

    off: float = 0.15
    """without memory, so that the model does not lean on what is absent"""
    oracle: float = 0.15
    """by true poses, among all frames of the episode but the recent context's: the ones to come as well"""
    own_oracle: float = 0.5
    """the same where the history is the model's own: what was recalled wrongly there is at odds with the true next
    frame, and would teach the model to leave its own world"""
    random: float = 0.05
    """any past frames"""

    def __post_init__(self) -> None:
        total = self.off + self.random + max(self.oracle, self.own_oracle)
        if total > 1 or min(self.off, self.oracle, self.own_oracle, self.random) < 0:
            raise ValueError(
                f"recall shares off {self.off}, oracle {self.oracle} or own_oracle {self.own_oracle}, random "
                f"{self.random} add up to {total:g} or lie below 0; use shares of at most 1 in all"
            )


@dataclass(frozen=True)
class EpisodeMarks(Followed):
    """What memory would know of every frame of every episode: the odometer's account of it, and by what it is found."""

    keys: Float[Tensor, "episode time dim"]
    """the descriptor's"""
    places: Float[Tensor, "episode time columns"]
    """`place_keys` of the poses"""

    def recent_poses(self, moments: Moments, reach: int) -> Float[Tensor, "batch {reach} 3"]:
        """Of the frames before each moment, told back from the newest one's, as at play."""
        rows, numbers = moments.episode[:, None], moments.frames(-reach, -1).clamp(min=0)
        poses = self.poses[rows, numbers]
        return traced_back(poses[:, -1], self.moves[rows, numbers], poses[..., 2])


@dataclass(frozen=True)
class Picks:
    """Frames recalled for a batch of moments, and those that a schedule has in the order of their importance."""

    frames: Int[Tensor, "batch recalled"]
    present: Bool[Tensor, "batch recalled"]
    ranked: Int[Tensor, "batch ranked"]
    ranked_present: Bool[Tensor, "batch ranked"]

    def last(self, count: int) -> "Picks":
        """Of the last `count` moments."""
        return Picks(*(getattr(self, field.name)[-count:] for field in fields(self)))


@torch.no_grad()
def mark_episodes(
    episodes: LatentEpisodes, descriptor: LearnedDescriptor, odometer: Odometer
) -> EpisodeMarks:
    """Keys of all frames, in float16, and where they were seen from."""
    keys, parts = [], []
    for part in torch.arange(len(episodes)).split(MARKED_AT_ONCE):
        latents, actions = episodes.latents[part].float(), episodes.actions[part]
        keys += [descriptor.keys(each).half() for each in latents]
        parts.append(odometer.follow(latents, actions))
    found = _settled(joined(parts), episodes)
    return EpisodeMarks(
        **vars(found), keys=torch.stack(keys),
        places=place_keys(found.poses.flatten(0, 1), PLACE).unflatten(0, found.poses.shape[:2]),
    )  # fmt: skip


def _settled(followed: Followed, episodes: LatentEpisodes) -> Followed:
    """With poses that agree best with all steps and sightings of whole episodes, later ones than play has included.

    What was expected moves along.
    """
    times = torch.arange(followed.poses.shape[1], device=followed.poses.device)
    real = times < episodes.lengths[:, None]
    followed = replace(followed, variances=followed.variances.where(real[..., None], torch.inf))
    poses = followed.poses.clone()
    for part in torch.arange(len(poses)).split(SETTLED_AT_ONCE):
        first, found = settled(followed.each(itemgetter(part)))
        poses[part, first:] = found
    expected = followed.expected.clone()
    expected[:, 1:, :2] += (poses - followed.poses)[:, :-1, :2]
    return replace(followed, poses=poses, expected=expected)


class BatchRecall:
    """Chooses past frames for moments of recorded episodes."""

    def __init__(
        self,
        episodes: LatentEpisodes,
        marks: EpisodeMarks,
        descriptor: LearnedDescriptor,
        sizes: Preset,
        mixture: RecallMixture,
    ) -> None:
        self.marks, self.descriptor, self.sizes, self.mixture = marks, descriptor, sizes, mixture
        self.true_poses = episodes.poses[..., [0, 1, 3]]
        self.lengths, self.latents = episodes.lengths, episodes.latents

    @torch.no_grad()
    def pick(
        self,
        pasts: Pasts,
        actions: Int[Tensor, "batch step factor"],
        own: int,
        generator: torch.Generator,
    ) -> Picks:
        """Frames out of the recent context; each moment draws its way of recall from the mixture, and ranks as at play.

        The last `own` moments are those of the model's own histories.
        """
        schedule, mixture = self.sizes.schedule, self.mixture
        moments = pasts.moments
        episode, last = moments.episode, moments.time + schedule.section - 1
        device = episode.device
        numbers = torch.arange(self.marks.keys.shape[1], device=device)
        ages = moments.time[:, None] - numbers
        scores = self._scores(pasts, actions, ages)
        way = torch.rand(len(moments), generator=generator, device=device)[:, None]
        shares = torch.full_like(way, mixture.oracle)
        shares[len(way) - own :] = mixture.own_oracle
        by_oracle = way < shares
        by_chance = (way >= shares) & (way < shares + mixture.random)
        oracle = score_places(self.true_poses[episode], self.true_poses[episode, last], PLACE)
        ranking = scores
        scores = torch.where(by_oracle, oracle, scores)
        chance = torch.rand(scores.shape, generator=generator, device=device)
        scores = torch.where(by_chance, chance, scores)
        past = ages > schedule.recent_frames + pasts.gap[:, None]
        least = least_score(pasts.expected[:, -1], pasts.poses[:, -1], self.sizes.recall)
        near = (ranking >= least[:, None]) | by_oracle | by_chance
        # A view is a view: what the player sees later teaches how to draw from it as well.
        coming = (ages < -schedule.recent_frames) & (numbers < self.lengths[episode][:, None]) & by_oracle
        frames, found = spread(
            scores,
            numbers.expand(scores.shape).contiguous(),
            schedule.recalled.frames,
            self.sizes.recall.gap_frames,
            (past | coming) & near & (way < 1 - mixture.off),
        )
        ranked, ranked_found = best_of_rest(ranking, schedule.ranked_frames, past, frames, found)
        return Picks(frames=frames, present=found, ranked=ranked, ranked_present=ranked_found)

    def _scores(
        self,
        pasts: Pasts,
        actions: Int[Tensor, "batch step factor"],
        ages: Int[Tensor, "batch time"],
    ) -> Float[Tensor, "batch time"]:
        """Of every frame of the moments' episodes, as play scores them."""
        episode, settings = pasts.moments.episode, self.sizes.recall
        if settings.measure == "latent":
            return score_latents(self.latents[episode], pasts.recent[:, -1], ages, settings)
        queries = make_queries(
            self.descriptor, pasts.recent, pasts.present, actions, self.sizes.schedule.section
        )
        keys, poses = self.marks.keys[episode], self.marks.poses[episode]
        return score_all(keys, queries, ages, poses, pasts.expected[:, -1], settings)
