"""Steps of recorded episodes as memory sees them after true history, and what each memory mode would recall there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from retrieval.pose_graph import SETTLE_EVERY, settled
from retrieval.spread import spread
from retrieval.whereabouts import Followed
from worldsim.checkpoint import WorldModels
from worldsim.evaluation.held_out import EncodedEpisode, HeldOut
from worldsim.recall import PLACE, RecallSettings, make_queries, score_all, score_places
from worldsim.training.moments import Moments, recent_actions, recent_latents


@dataclass(frozen=True)
class Steps:
    """Some steps of one episode, and all its frames as memory knows them at each step, after true history."""

    models: WorldModels
    keys: Float[Tensor, "time dim"]
    poses: Float[Tensor, "step time 3"]
    """as they have settled by then; those of later frames have moved along"""
    expected: Float[Tensor, "step 3"]
    true_poses: Float[Tensor, "time 3"]
    queries: Float[Tensor, "step dim"]
    times: tuple[int, ...]
    shows: Bool[Tensor, "step time"]
    """which frames show the step's view, by true pose"""

    def scores(self, settings: RecallSettings) -> dict[str, Float[Tensor, "step time"]]:
        """Of every frame: by chance, by age, by the descriptor, by place, by both with the weights given, by true pose."""
        count = (len(self.times), -1, -1)
        times = torch.tensor(self.times, device=self.keys.device)
        ages = times[:, None] - torch.arange(len(self.keys), device=self.keys.device)
        keys, poses = self.keys.expand(count), self.poses
        bare = replace(settings, time_weight=0.0, heading_weight=0.0, position_weight=0.0)
        given = (keys, self.queries, ages, poses, self.expected)
        chance = torch.rand(ages.shape, generator=torch.Generator().manual_seed(self.times[0]))
        return {
            "random": chance.to(keys.device),
            "time": -ages.float(),
            "cosine": score_all(*given, bare),
            "place": score_places(poses, self.expected, PLACE),
            "hybrid": score_all(*given, settings),
            "oracle": score_places(self.true_poses.expand(count), self.true_poses[times], PLACE),
        }

    def choose(
        self, scores: Float[Tensor, "step time"], gap_frames: int
    ) -> tuple[Int64[Tensor, "step recalled"], Bool[Tensor, "step recalled"]]:
        """The frames that memory would recall, best first, and which of them are real choices."""
        numbers = torch.arange(len(self.keys), device=scores.device)
        frames = numbers.expand(scores.shape).contiguous()
        count = self.models.schedule.recalled.frames
        return spread(scores, frames, count, gap_frames, self.old)

    @property
    def old(self) -> Bool[Tensor, "step time"]:
        """Which frames memory may recall at each step: those before the recent ones."""
        numbers = torch.arange(len(self.keys), device=self.keys.device)
        times = torch.tensor(self.times, device=self.keys.device)
        return times[:, None] - numbers > self.models.schedule.recent_frames

    def hits(self, scores: Float[Tensor, "step time"], gap_frames: int) -> Bool[np.ndarray, "step recalled"]:
        """Whether each recalled frame, best first, shows the view."""
        frames, found = self.choose(scores, gap_frames)
        return (self.shows.gather(1, frames) & found).cpu().numpy()


@torch.no_grad()
def steps_of(
    models: WorldModels,
    held_out: HeldOut,
    episode: int,
    encoded: EncodedEpisode,
    found: Mapping[int, Bool[np.ndarray, " frame"]],
) -> Steps:
    """The steps in `found` of one episode; it says for each which frames show its view."""
    count, times = len(encoded.latents), tuple(sorted(found))
    actions = torch.from_numpy(held_out.actions[episode][None]).to(models.device)
    moments = Moments(
        episode=torch.zeros(len(times), dtype=torch.int64, device=models.device),
        time=torch.tensor(times, device=models.device),
    )
    reach, section = models.schedule.recent_frames, models.schedule.section
    recent, present = recent_latents(encoded.latents[None], moments, reach)
    pressed = recent_actions(actions, moments, reach, section)
    shows = torch.from_numpy(np.stack([found[time][:count] for time in times]))
    poses, expected = settled_at(encoded.followed, times)
    return Steps(
        models=models, keys=models.descriptor.keys(encoded.latents.to(models.dtype)).float(),
        poses=poses, expected=expected,
        true_poses=torch.from_numpy(held_out.poses[episode][:count, [0, 1, 3]]).to(models.device),
        queries=make_queries(models.descriptor, recent.to(models.dtype), present, pressed, section),
        times=times, shows=shows.to(models.device),
    )  # fmt: skip


def settled_at(
    followed: Followed, times: Sequence[int]
) -> tuple[Float[Tensor, "step time 3"], Float[Tensor, "step 3"]]:
    """Where memory takes all frames to lie at each of these steps, and what it then expects of the coming one.

    Places have settled by the last frame that is a multiple of `SETTLE_EVERY`; what came later has moved along.
    """
    poses = followed.poses.repeat(len(times), 1, 1)
    expected = followed.expected[0, list(times)]
    for each, coming, time in zip(poses, expected, times, strict=True):
        known = time - time % SETTLE_EVERY
        if followed.variances[:, :known].isfinite().any():
            first, found = settled(followed.part(0, known))
            shift = found[0, -1, :2] - each[known - 1, :2]
            each[first:known] = found[0]
            each[known:, :2] += shift
            coming[:2] += shift
    return poses, expected
