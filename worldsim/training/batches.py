"""What one step of the world model's training learns from: moments, their histories, frames ahead and noise."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.history import AgedFrames, History
from models.patchifier import tail_cells
from models.transformer import WorldTransformer
from retrieval.odometer import Odometer
from worldsim.presets import Preset
from worldsim.training.ahead import draw_ahead, draw_gaps
from worldsim.training.data import LatentEpisodes
from worldsim.training.model_training import ModelTraining
from worldsim.training.moments import (
    Moments,
    Pasts,
    coming_latents,
    first_frames,
    recent_actions,
    recent_latents,
    tail_frames,
)
from worldsim.training.recalling import BatchRecall, Picks
from worldsim.training.self_rollout import SelfRollout, random_moments


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    history: History
    coming: Float[Tensor, "batch section channel height width"]
    """the true section"""
    actions: Int[Tensor, "batch step factor"]
    own: int
    """rows (the last ones) whose history the model has made itself"""
    weights: Float[Tensor, " batch"]
    """what each row counts"""
    own_history: History
    """of those rows, without noise"""


class Batches:
    """Draws batches of moments, the last rows on histories that the model has made itself."""

    def __init__(
        self,
        model: WorldTransformer,
        episodes: LatentEpisodes,
        recall: BatchRecall,
        odometer: Odometer,
        sizes: Preset,
        settings: ModelTraining,
    ) -> None:
        self.model, self.episodes, self.recall, self.odometer = model, episodes, recall, odometer
        self.schedule, self.settings = sizes.schedule, settings
        # Even a model that is given no recent frame has been somewhere just before.
        self.reach, self.section = max(1, sizes.schedule.recent_frames), sizes.schedule.section
        if not self.schedule.recent and settings.own_frames.share:
            raise ValueError(
                f"schedule {self.schedule.text!r} has no recent frames to go on from: it cannot train on its own; "
                "use --own-frames.share 0"
            )
        self.cells = torch.stack(
            [tail_cells(each.float(), sizes.schedule.tail).half() for each in episodes.latents]
        )
        self.own: SelfRollout | None = None
        self.begins = settings.own_frames.begins(settings.own_frames.flow(sizes.flow))

    def draw(self, step: int, generator: torch.Generator) -> Batch:
        """The batch of a step; what is drawn depends on the generator alone, and on where own histories have come to."""
        settings, own_frames = self.settings, self.settings.own_frames
        own = int(settings.batch * own_frames.share) if step >= own_frames.after_steps else 0
        pasts = self._true_pasts(
            random_moments(self.episodes, settings.batch - own, self.section, generator), generator
        )
        sigma = _history_sigma(settings.batch - own, settings.clean_share, settings.history_noise, generator)
        if own:
            if self.own is None or step % own_frames.length == 0:
                length = own_frames.length - step % own_frames.length
                self.own = SelfRollout(
                    self.episodes, self.recall.marks, self.odometer, own, self.reach, self.section, length,
                    generator, int(own * own_frames.held), self.begins,
                )  # fmt: skip
            pasts = pasts.with_more(self.own.pasts())
            sigma = torch.cat((sigma, _history_sigma(own, 0.5, 0.2, generator)))
        coming = coming_latents(self.episodes.latents, pasts.moments, self.section)
        actions = recent_actions(self.episodes.actions, pasts.moments, self.reach, self.section)
        picks = self.recall.pick(pasts, actions, own, generator)
        weights = torch.ones_like(sigma)
        if own and self.own is not None:
            weights[-own:] = self.own.held.rows | (self.own.known(picks.last(own)) >= own_frames.known)
        history = self._history(pasts, sigma, picks, own, generator)
        shape = len(sigma), history.frames, *pasts.recent.shape[2:]
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return Batch(
            self.model.seen(history, noise),
            coming,
            actions,
            own,
            weights,
            history.rows(slice(len(sigma) - own, None)),
        )

    def _true_pasts(self, moments: Moments, generator: torch.Generator) -> Pasts:
        """Of recorded moments; where the schedule plans ends some of them lie far ahead of all that is known."""
        marks, rows = self.recall.marks, moments.episode[:, None]
        gap = torch.zeros_like(moments.time)
        if self.schedule.last:
            gap = draw_gaps(moments, self.settings.ahead, generator)
        before = Moments(episode=moments.episode, time=moments.time - gap)
        recent, present = recent_latents(self.episodes.latents, before, self.reach)
        return Pasts(
            moments, recent, present, marks.recent_poses(before, self.reach),
            marks.expected[rows, moments.frames(0, self.section - 1)], gap,
        )  # fmt: skip

    def _history(
        self,
        pasts: Pasts,
        sigma: Float[Tensor, " batch"],
        picks: Picks,
        own: int,
        generator: torch.Generator,
    ) -> History:
        """The past as memory keeps it, with the level of the noise that it will be seen under."""
        moments, schedule = pasts.moments, self.schedule
        before = Moments(episode=moments.episode, time=moments.time - pasts.gap)
        actions = recent_actions(self.episodes.actions, before, self.reach, 0)
        ahead = draw_ahead(self.episodes, self.recall.marks, pasts, schedule, self.settings.ahead, generator)
        newest = slice(self.reach - schedule.recent_frames, None)
        return History(
            recent=pasts.recent[:, newest], recent_present=pasts.present[:, newest],
            recent_actions=actions[:, newest], recent_poses=pasts.poses[:, newest],
            recalled=self._picked(pasts, picks.frames, picks.present, own),
            ranked=self._picked(pasts, picks.ranked, picks.ranked_present, own),
            first=first_frames(self.episodes.latents, self.recall.marks.poses, before, schedule),
            tail=tail_frames(self.cells, before, schedule), section_poses=pasts.expected, sigma=sigma,
            coming=ahead.coming, coming_actions=ahead.coming_actions, last=ahead.last, gap=pasts.gap,
        )  # fmt: skip

    def _picked(
        self, pasts: Pasts, frames: Int[Tensor, "batch n"], present: Bool[Tensor, "batch n"], own: int
    ) -> AgedFrames:
        """Frames of the episodes, of held histories their own, registered against the newest one as at play."""
        moments, poses = pasts.moments, self.recall.marks.poses
        rows = moments.episode[:, None]
        latents, there = self.episodes.latents[rows, frames].float(), poses[rows, frames]
        if own and self.own is not None:
            latents[-own:], there[-own:] = self.own.held.remembered(
                frames[-own:], latents[-own:], there[-own:]
            )
        return AgedFrames(
            latents=latents,
            present=present,
            ages=(moments.time[:, None] - frames).abs(),
            poses=self.odometer.registered(pasts.recent[:, -1], pasts.poses[:, -1], latents, there),
        )


def _history_sigma(
    count: int, clean_share: float, highest: float, generator: torch.Generator
) -> Float[Tensor, " batch"]:
    draw = torch.rand(2, count, generator=generator, device=generator.device)
    return torch.where(draw[0] < clean_share, 0.0, highest * draw[1])
