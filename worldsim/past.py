"""What a batch of worlds knows when it makes its next section: recent, recalled and first frames, and the tail."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from models.history import AgedFrames, History
from models.packer import pad_actions
from models.schedule import Schedule
from retrieval.foresight import Witnesses, search_witnesses
from retrieval.odometer import ACTIONS
from retrieval.whereabouts import LANDMARKS, Followed, Sightings, Whereabouts, joined
from worldsim.checkpoint import WorldModels
from worldsim.memory import Memory
from worldsim.recall import Recalled
from worldsim.section_maker import SectionMaker


@dataclass(frozen=True)
class Recent:
    """Every world's recent frames, oldest first."""

    latents: Float[Tensor, "batch recent channel height width"]
    actions: Int64[Tensor, "batch recent factor"]
    poses: Float[Tensor, "batch recent 3"]
    present: Bool[Tensor, "batch recent"]


@dataclass(frozen=True)
class Ahead:
    """What is known behind every world's section, where an end is planned; zeros and absent where nothing is."""

    coming: AgedFrames
    coming_actions: Int64[Tensor, "batch coming factor"]
    last: AgedFrames
    gap: Int64[Tensor, " batch"]
    """frames between the newest one and the section: of a planned end itself"""

    @classmethod
    def nothing(cls, schedule: Schedule, recent: Recent) -> "Ahead":
        """As in play."""
        like, (batch, _, factors) = recent.latents, recent.actions.shape
        close, last = schedule.frames("coming"), schedule.frames("last")
        return cls(
            coming=absent(close, like),
            coming_actions=torch.zeros(batch, close, factors, dtype=torch.int64, device=like.device),
            last=absent(last, like),
            gap=torch.zeros(batch, dtype=torch.int64, device=like.device),
        )


def absent(count: int, like: Float[Tensor, "batch recent channel height width"]) -> AgedFrames:
    """Places for so many frames, all of them empty."""
    batch = len(like)
    return AgedFrames(
        latents=like.new_zeros(batch, count, *like.shape[2:]),
        present=torch.zeros(batch, count, dtype=torch.bool, device=like.device),
        ages=torch.ones(batch, count, dtype=torch.int64, device=like.device),
        poses=torch.zeros(batch, count, 3, device=like.device),
    )


def recent_of(memories: Sequence[Memory], models: WorldModels, count: int | None = None) -> Recent:
    """So many; None: as many as the schedule reaches."""
    wanted = models.schedule.recent_frames if count is None else count
    columns = zip(*(memory.recent(wanted) for memory in memories), strict=True)
    latents, actions, poses, present = (torch.stack(column) for column in columns)
    return Recent(latents=latents.to(models.dtype), actions=actions, poses=poses, present=present)


def foreseen(
    memories: Sequence[Memory],
    maker: SectionMaker,
    where: Whereabouts,
    newest: Float[Tensor, "batch channel height width"],
    actions: Int64[Tensor, "batch step factor"],
    section: int,
) -> tuple[Followed, Whereabouts]:
    """Where so many coming frames will be seen from, and where that ends; `actions` end with theirs."""
    known = pad_actions(actions, ACTIONS + section)
    odometer, witnesses = maker.models.odometer, None
    if odometer.foresight is not None:
        places = odometer.aim(where, known[:, : known.shape[1] - section + 1])
        found = [
            witnesses_in(memory, place[None], odometer.config.view_deg)
            for memory, place in zip(memories, places, strict=True)
        ]
        witnesses = joined(found)
    return maker.expect(where, newest, known, section, witnesses)


def witnesses_in(memory: Memory, place: Float[Tensor, "1 2"], view_deg: float) -> Witnesses:
    """Frames of a memory that saw a place which the next step leads to."""
    frames, found = search_witnesses(place, memory.poses, view_deg)
    return Witnesses(scans=memory.scans[frames], poses=memory.poses[frames], present=found)


def recall_for(
    memories: Sequence[Memory],
    maker: SectionMaker,
    recent: Recent,
    actions: Int64[Tensor, "batch step factor"],
    expected: Float[Tensor, "batch section 3"],
    true_poses: Float[Tensor, "batch section 3"] | None,
) -> tuple[list[list[Recalled]], list[list[Recalled]]]:
    """Every world's picks, and its ranked frames; ValueError if the oracle is not told true poses."""
    schedule, memory = maker.models.schedule, memories[0]
    queries = None
    if memory.mode == "oracle":
        if true_poses is None:
            raise ValueError("memory mode 'oracle' needs true poses; it is for evaluation only")
        expected = true_poses
    elif memory.needs_query:
        queries = maker.queries(recent.latents, recent.present, actions, schedule.section).cpu().numpy()
    recalled, ranked = [], []
    for i, each in enumerate(memories):
        query = None if queries is None else queries[i]
        picks = each.recall(query, expected[i, -1], schedule.recalled.frames, schedule.recent_frames)
        recalled.append(picks)
        ranked.append(
            each.ranked(query, expected[i, -1], schedule.ranked_frames, schedule.recent_frames, picks)
        )
    return recalled, ranked


def history_of(
    memories: Sequence[Memory],
    models: WorldModels,
    recent: Recent,
    recalled: Sequence[Sequence[Recalled]],
    ranked: Sequence[Sequence[Recalled]],
    expected: Float[Tensor, "batch section 3"],
    ahead: Ahead | None = None,
) -> History:
    """The transformer's input before it is packed; `ahead` None: nothing is known behind the section, as in play."""
    schedule, past = models.schedule, recent.latents
    slots, kept = schedule.recalled.frames, schedule.first_frames
    picks = [[pick.frame for pick in each] for each in recalled]
    # Where there are too few, the least important slots stay empty.
    ordered = [
        [(schedule.ranked_frames - len(each) + i, pick.frame) for i, pick in enumerate(each)]
        for each in ranked
    ]
    ahead = ahead or Ahead.nothing(schedule, recent)
    begun = [schedule.first_used(len(memory)) for memory in memories]
    return History(
        recent=past,
        recent_present=recent.present,
        recent_actions=recent.actions,
        recent_poses=recent.poses,
        recalled=_aged(memories, [list(enumerate(each)) for each in picks], slots, past),
        first=_aged(memories, [[(n, n) for n in each] for each in begun], kept, past),
        tail=_tail(memories, schedule, past),
        ranked=_aged(memories, ordered, schedule.ranked_frames, past),
        coming=ahead.coming,
        coming_actions=ahead.coming_actions,
        last=ahead.last,
        gap=ahead.gap,
        section_poses=expected,
        sigma=torch.zeros(len(memories), device=past.device, dtype=torch.float32),
    )


def registered(history: History, maker: SectionMaker) -> History:
    """With places of recalled and ranked frames mended by comparing them with the newest one."""
    newest, pose = history.recent[:, -1], history.recent_poses[:, -1]

    def mended(found: AgedFrames) -> AgedFrames:
        if not found.latents.shape[1]:
            return found
        return replace(found, poses=maker.register(newest, pose, found.latents, found.poses))

    return replace(history, recalled=mended(history.recalled), ranked=mended(history.ranked))


def recognised(
    memories: Sequence[Memory],
    maker: SectionMaker,
    newest: Float[Tensor, "batch channel height width"],
    where: Whereabouts,
    age: int,
) -> tuple[Whereabouts, Sightings]:
    """Where players are who see a new frame, `age` frames after the newest in memory, and what they recognise in it."""
    found = [memory.landmarks(pose, age) for memory, pose in zip(memories, where.pose, strict=True)]
    some = next((each for each in found if each is not None), None)
    if some is None:
        return where, Sightings.none(len(newest), LANDMARKS, newest.device)
    none = replace(some, present=torch.zeros_like(some.present))
    return maker.recognised(where, newest, joined([each or none for each in found]))


def _aged(
    memories: Sequence[Memory],
    placed: Sequence[Sequence[tuple[int, int]]],
    slots: int,
    like: Float[Tensor, "batch recent channel height width"],
) -> AgedFrames:
    """Every world's frames of those numbers in those slots (slot, frame)."""
    frames = absent(slots, like)
    for i, (memory, pairs) in enumerate(zip(memories, placed, strict=True)):
        if pairs:
            into, numbers = [slot for slot, _ in pairs], [frame for _, frame in pairs]
            frames.latents[i, into] = memory.latents(numbers).to(like.dtype)
            frames.poses[i, into] = memory.poses[numbers]
            frames.ages[i, into] = len(memory) - torch.tensor(numbers, device=like.device)
            frames.present[i, into] = True
    return frames


def _tail(
    memories: Sequence[Memory], schedule: Schedule, like: Float[Tensor, "batch recent channel height width"]
) -> AgedFrames:
    """Every world's frames between the first and the recent ones, as the schedule keeps them, in whole groups."""
    size = schedule.tail_kernel.frames
    tails = [
        memory.tail(len(schedule.first_used(len(memory))), schedule.recent_frames) for memory in memories
    ]
    longest = max(len(ages) for _, ages in tails)
    if not longest:
        return AgedFrames.none(like)
    numbers, rows = torch.arange(longest, device=like.device), []
    for cells, ages in tails:
        # Behind a world's last frame stands that frame again, as far as its last group goes.
        frames = numbers.clamp(max=max(len(ages) - 1, 0))
        rows.append((
            cells[frames] if len(ages) else cells.new_zeros(longest, *cells.shape[1:]),
            numbers < ceil(len(ages) / size) * size,
            ages[frames] if len(ages) else ages.new_zeros(longest),
        ))  # fmt: skip
    latents, present, ages = (torch.stack(column) for column in zip(*rows, strict=True))
    poses = torch.zeros(len(memories), longest, 3, device=like.device)
    return AgedFrames(latents=latents.to(like.dtype), present=present, ages=ages, poses=poses)
