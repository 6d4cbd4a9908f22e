"""Sampling with planned ends (FramePack, section 3.2): what lies ahead is made first, what leads there afterwards.

Only where the actions to come are known: in rollouts, not in play. A game adds to the paper that actions may lead back to
where the player has been: then a remembered frame is the end, and nothing has to be made up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from models.history import AgedFrames
from retrieval.odometer import ACTIONS
from retrieval.whereabouts import Followed, Whereabouts, joined
from worldsim.errors import check_at_least
from worldsim.past import Ahead, absent, foreseen, history_of, recall_for, recent_of, registered
from worldsim.section import Section, shown
from worldsim.world import World, keep_section, make_section, step_worlds


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """How ends are planned, for schedules with frames behind the section such as …_g1_x_f1k1."""

    every: int = 48
    """frames from one planned end to the next; training planned up to 96 ahead"""
    ends: int = 1
    """ends that are made at once, each with its own place and actions, before the first is led to"""
    remembered: bool = False
    """take remembered frames as ends where the player comes back to a place, and plan none elsewhere"""
    nearness: float = 1.0
    """highest cost of place and heading at which a remembered frame counts as the place (1: one width away)"""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "every", "ends")
        if self.nearness <= 0:
            raise ValueError(f"nearness {self.nearness} of remembered ends is not above 0")


@dataclass(frozen=True)
class _End:
    """Frames that every world is to come to."""

    first: int
    """the action that leads to the first of them, counted over the rollout"""
    frames: AgedFrames
    made: Float[Tensor, "batch section channel height width"] | None
    """whole sections that come true when they are reached; None: remembered ones, which only show the way"""

    def seen_from(self, last: int, worlds: Sequence[World]) -> Ahead:
        """As the section whose last frame follows action `last` sees it."""
        ages = self.first - last + torch.arange(self.frames.ages.shape[1], device=self.frames.ages.device)
        recent = recent_of([world.memory for world in worlds], worlds[0].models)
        frames = replace(self.frames, ages=ages.expand_as(self.frames.ages))
        return replace(Ahead.nothing(worlds[0].models.schedule, recent), last=frames)


@torch.no_grad()
def roll_out_planned(
    worlds: Sequence[World],
    actions: Int64[Tensor, "batch time factor"],
    settings: PlanSettings,
    true_poses: Float[Tensor, "batch time 3"] | None = None,
) -> Iterator[list[Section]]:
    """Sections of all worlds in the order of time, each a section long; the ends between them are made before.

    ValueError if the schedule has no frames of an end, or the ends lie closer than two sections.
    """
    schedule = worlds[0].models.schedule
    size, total = schedule.section, actions.shape[1]
    if not schedule.last:
        raise ValueError(
            f"schedule {schedule.text!r} plans no end; it needs one like td_f16k4f4k2f2k1_g1_x_f1k1"
        )
    if settings.every < 2 * size or settings.every % size:
        raise ValueError(
            f"ends every {settings.every} frames with sections of {size}; use a multiple of {size} from {2 * size} on"
        )
    actions = actions.to(worlds[0].models.device)
    at = 0
    while at < total:
        stops = [min(at + settings.every * (i + 1), total) for i in range(settings.ends)]
        stops = [stop for i, stop in enumerate(stops) if i == 0 or stop > stops[i - 1]]
        if settings.remembered:
            ends = [_remembered(worlds, actions[:, at:stop], stop, settings.nearness) for stop in stops]
        else:
            ends = [_made(worlds, actions[:, at:stop], stop - size, true_poses) for stop in stops]
        for stop, end in zip(stops, ends, strict=True):
            while at < stop:
                part = slice(at, at + size)
                truth = None if true_poses is None else true_poses[:, part]
                if end.made is not None and at == end.first:
                    yield _come_true(worlds, end.made, actions[:, part], truth)
                else:
                    yield step_worlds(worlds, actions[:, part], truth, end.seen_from(at + size - 1, worlds))
                at += size


def _expected(
    worlds: Sequence[World], actions: Int64[Tensor, "batch time factor"]
) -> tuple[Followed, Whereabouts]:
    """Where the actions lead, as far as the tables of moves tell and the first step shows."""
    maker, memories = worlds[0].maker, [world.memory for world in worlds]
    recent = recent_of(memories, maker.models, ACTIONS)
    known = torch.cat((recent.actions, actions), 1)
    where = joined([world.where for world in worlds])
    return foreseen(memories, maker, where, recent.latents[:, -1], known, actions.shape[1])


def _made(
    worlds: Sequence[World],
    actions: Int64[Tensor, "batch time factor"],
    first: int,
    true_poses: Float[Tensor, "batch time 3"] | None,
) -> _End:
    """The last section of those actions, with nothing of what leads there."""
    models, memories = worlds[0].models, [world.memory for world in worlds]
    size, gap = models.schedule.section, actions.shape[1] - models.schedule.section
    recent = recent_of(memories, models)
    poses = _expected(worlds, actions)[0].poses[:, gap:]
    known = torch.cat((recent.actions, actions), 1)
    truth = None if true_poses is None else true_poses[:, first : first + size]
    recalled, ranked = recall_for(memories, worlds[0].maker, recent, known, poses, truth)
    ahead = Ahead.nothing(models.schedule, recent)
    ahead = replace(ahead, gap=torch.full_like(ahead.gap, gap))
    history = registered(
        history_of(memories, models, recent, recalled, ranked, poses, ahead), worlds[0].maker
    )
    history = replace(
        history,
        recalled=history.recalled.older(gap),
        ranked=history.ranked.older(gap),
        first=history.first.older(gap),
    )
    made = make_section(worlds, history, known)
    count = models.schedule.frames("last")
    frames = absent(count, recent.latents)
    near = slice(min(count, size))
    frames.latents[:, near] = made[:, near].to(recent.latents.dtype)
    frames.poses[:, near], frames.present[:, near] = poses[:, near], True
    for world in worlds:
        world.steps += 1  # the next section's noise is another
    return _End(first, frames, made)


def _remembered(
    worlds: Sequence[World], actions: Int64[Tensor, "batch time factor"], first: int, nearness: float
) -> _End:
    """Frames of every world's past that were seen from where the actions lead; none where there is no such place."""
    models = worlds[0].models
    recent = recent_of([world.memory for world in worlds], models)
    frames = absent(models.schedule.frames("last"), recent.latents)
    poses = _expected(worlds, actions)[0].poses[:, -1]
    for i, world in enumerate(worlds):
        found = world.memory.nearest(poses[i], models.schedule.recent_frames)
        if found is not None and -found.score <= nearness:
            frames.latents[i, 0] = world.memory.latents([found.frame])[0].to(recent.latents.dtype)
            frames.poses[i, 0] = world.memory.poses[found.frame]
            frames.present[i, 0] = True
    return _End(first, frames, None)


def _come_true(
    worlds: Sequence[World],
    made: Float[Tensor, "batch section channel height width"],
    actions: Int64[Tensor, "batch section factor"],
    true_poses: Float[Tensor, "batch section 3"] | None,
) -> list[Section]:
    """The end is reached: it is what the worlds show next."""
    keep_section(worlds, made, actions, *_expected(worlds, actions), true_poses)
    return shown(worlds[0].maker, made)
