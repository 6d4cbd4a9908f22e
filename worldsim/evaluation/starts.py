"""Where revisits begin in recorded episodes, found by true pose."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, kw_only=True)
class StartSettings:
    """What counts as a revisit, and how many to take."""

    ahead: int = 12
    """The view that must be a revisit lies this many steps after the start."""
    gap: int = 60
    """It must have been seen more than this many steps before that view."""
    distance: float = 48.0
    """Two poses see the same only if nearer than this, in map units ..."""
    angle_deg: float = 20.0
    """... and with their yaws less than this apart, in degrees, in the same room."""
    history: int = 100
    """A start has at least this many true frames before it."""
    spacing: int = 24
    """Fewest steps between two starts of one episode."""
    per_episode: int = 4
    """Most starts of one episode."""

    def __str__(self) -> str:
        return (
            f"ahead {self.ahead}, gap {self.gap}, distance {self.distance:g}, angle_deg {self.angle_deg:g}, "
            f"history {self.history}"
        )


@dataclass(frozen=True, kw_only=True)
class Start:
    """One place to roll out from: frames 0 .. step-1 are history, frame `step` is the first made."""

    episode: int
    """Index of the episode among those searched."""
    step: int
    """First frame to be made."""
    map_seed: int
    """Which map: the cluster of the bootstrap."""
    gap: int
    """Steps from the last sight of the view `ahead` of the start to that view; -1 if it was never seen."""
    kind: str = ""
    """Which kind of route it is on, if on one."""


def same_view(
    poses: Float[np.ndarray, "time 4"], rooms: Int[np.ndarray, " time"], step: int, settings: StartSettings
) -> Bool[np.ndarray, " time"]:
    """Which frames see what frame `step` sees: same room, near, looking the same way."""
    near = np.hypot(*(poses[:, :2] - poses[step, :2]).T) < settings.distance
    turned_deg = np.abs((poses[:, 3] - poses[step, 3] + 180.0) % 360.0 - 180.0)
    return near & (turned_deg < settings.angle_deg) & (rooms == rooms[step])


def revisit_gap(
    poses: Float[np.ndarray, "time 4"],
    rooms: Int[np.ndarray, " time"],
    start: int,
    recent: int,
    settings: StartSettings,
) -> int | None:
    """Steps since the view at start + ahead was last seen; -1 if never; None if neither, or if its pose is not known.

    A revisit's view was seen more than `gap` steps earlier and by none of the frames start - recent .. start.
    The gap returned is to its latest sight before the start: smaller than `gap` if it was seen again since.
    """
    view = start + settings.ahead
    if not np.isfinite(poses[view]).all():
        return None
    seen = same_view(poses, rooms, view, settings)
    if seen[max(0, start - recent) : start + 1].any():
        return None
    before = np.flatnonzero(seen[:start])
    if len(before) == 0:
        return -1
    if before[0] >= view - settings.gap:
        return None
    return int(view - before[-1])


def _spaced(candidates: list[int], settings: StartSettings, rng: np.random.Generator) -> list[int]:
    chosen: list[int] = []
    for index in rng.permutation(len(candidates)):
        if len(chosen) == settings.per_episode:
            break
        if all(abs(candidates[index] - other) >= settings.spacing for other in chosen):
            chosen.append(candidates[index])
    return chosen


def spread_over_maps(starts: list[Start], count: int, rng: np.random.Generator) -> list[Start]:
    """Take one start of every map in turn, in random order, until `count` are taken."""
    maps: dict[int, list[Start]] = {}
    for index in rng.permutation(len(starts)):
        maps.setdefault(starts[index].map_seed, []).append(starts[index])
    order = list(maps.values())
    taken: list[Start] = []
    for turn in range(max((len(each) for each in order), default=0)):
        taken += [each[turn] for each in order if turn < len(each)]
    return sorted(taken[:count], key=lambda start: (start.episode, start.step))


def find_starts(
    poses: Sequence[Float[np.ndarray, "_ 4"]],
    rooms: Sequence[Int[np.ndarray, " _"]],
    map_seeds: Sequence[int],
    *,
    count: int,
    horizon: int,
    recent: int,
    seed: int,
    settings: StartSettings,
    unseen: bool = False,
) -> list[Start]:
    """Up to `count` revisits (or, with `unseen`, views never seen before), spread over maps.

    Args:
        seed: the same seed chooses the same starts.
        horizon: frames to be rolled out: they must lie inside the episode.
        recent: how many frames back the schedule's recent context reaches.

    Raises:
        ValueError: no such start in any episode.
    """
    rng = np.random.default_rng([seed, int(unseen)])
    found: list[Start] = []
    for episode, (pose, room, map_seed) in enumerate(zip(poses, rooms, map_seeds, strict=True)):
        reach = max(horizon, settings.ahead + 1)
        gaps = {
            step: gap
            for step in range(max(settings.history, recent, 1), len(pose) - reach + 1)
            if (gap := revisit_gap(pose, room, step, recent, settings)) is not None and (gap < 0) == unseen
        }
        for step in _spaced(list(gaps), settings, rng):
            found.append(Start(episode=episode, step=step, map_seed=map_seed, gap=gaps[step]))
    if not found:
        longest = max((len(pose) for pose in poses), default=0)
        kind = "view never seen before" if unseen else "revisit"
        raise ValueError(
            f"no {kind} in {len(poses)} episodes of up to {longest} steps ({settings}, "
            f"recent context {recent}, horizon {horizon}); record longer episodes or loosen these thresholds"
        )
    return spread_over_maps(found, count, rng)
