"""Recall alone, judged by how much of the coming view the recalled frames show: by the game's own depth and poses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from worldsim.checkpoint import WorldModels
from worldsim.evaluation.bootstrap import Interval, ratio_bootstrap
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.recall_steps import Steps, steps_of
from worldsim.evaluation.replayed_depth import replayed_depths
from worldsim.evaluation.seen_pixels import shown_by
from worldsim.evaluation.starts import Start

STRIDE = 4
"""every so many pixels along each side of a view are followed back"""
EPISODES_AT_ONCE = 16
"""episodes whose depth and latents are held in memory at a time"""


@dataclass(frozen=True, kw_only=True)
class CovisibleRecallSettings:
    """What is asked of recall, and at which steps of a start's horizon."""

    ks: tuple[int, ...] = (1, 2, 4, 8)
    """So many best frames; of these numbers those count that are no more than the schedule recalls."""
    relevant: float = 0.5
    """Share of the coming view from which a frame counts as one that shows it."""
    every: int = 4
    """Steps of the horizon from one question to the next."""


def covisible_recall(
    models: WorldModels,
    held_out: HeldOut,
    starts: Sequence[Start],
    horizon: int,
    settings: CovisibleRecallSettings,
) -> list[dict[str, Any]]:
    """One row a start, step and mode: what the k best recalled frames show, after true history.

    `shown` counts frames among the k best that show the view, `could` how many there are to find, at most k;
    `covered` is the share of the view's pixels that the k best show together, `coverable` what all old frames do.
    Steps of whose view no old frame shows anything tell nothing and are left out.

    Raises:
        ValueError: an episode does not replay exactly, or is of no maze.
    """
    by_episode: dict[int, list[Start]] = {}
    for start in starts:
        by_episode.setdefault(start.episode, []).append(start)
    rows: list[dict[str, Any]] = []
    parts = torch.tensor(sorted(by_episode)).split(EPISODES_AT_ONCE)
    for part in tqdm(parts, desc="recall", unit="batch"):
        stops = {each: max(start.step for start in by_episode[each]) + horizon for each in part.tolist()}
        depths, encoded = replayed_depths(held_out, stops), held_out.encode(models, stops)
        for episode in stops:
            depth = depths[episode].to(models.device)
            poses = torch.from_numpy(held_out.poses[episode][: stops[episode]]).to(models.device)
            for start in by_episode[episode]:
                views = _views(depth, poses, start, horizon, models.schedule.recent_frames, settings.every)
                shows = {
                    time: np.pad(_shares(shown) >= settings.relevant, (0, stops[episode] - len(shown)))
                    for time, shown in views.items()
                }
                if views:
                    steps = steps_of(models, held_out, episode, encoded[episode], shows)
                    rows += _rows(start, steps, views, settings)
    return rows


def _views(
    depth: Float[Tensor, "time height width"],
    poses: Float[Tensor, "time 4"],
    start: Start,
    horizon: int,
    recent: int,
    every: int,
) -> dict[int, Bool[Tensor, "old pixel"]]:
    """For each step asked about which of its pixels every old frame shows; steps with something to find alone."""
    views = {}
    for time in range(start.step, start.step + horizon, every):
        old = time - recent
        shown = shown_by(depth[time], poses[time], depth[:old], poses[:old], STRIDE).flatten(1)
        if shown.any():
            views[time] = shown
    return views


def _shares(shown: Bool[Tensor, "old pixel"]) -> Float[np.ndarray, " old"]:
    return shown.float().mean(1).cpu().numpy()


def _rows(
    start: Start,
    steps: Steps,
    views: Mapping[int, Bool[Tensor, "old pixel"]],
    settings: CovisibleRecallSettings,
) -> list[dict[str, Any]]:
    rows = []
    for mode, scores in steps.scores(steps.models.recall).items():
        chosen, real = steps.choose(scores, steps.models.recall.gap_frames)
        for index, time in enumerate(steps.times):
            frames = chosen[index][real[index]].tolist()
            shown, relevant = views[time], steps.shows[index]
            row: dict[str, Any] = {**asdict(start), "time": time, "mode": mode}
            row["coverable"] = float(shown.any(0).float().mean())
            for k in (k for k in settings.ks if k <= steps.models.schedule.recalled.frames):
                best = frames[:k]
                row[f"shown@{k}"] = int(relevant[best].sum())
                row[f"could@{k}"] = min(k, int(relevant.sum()))
                row[f"recalled@{k}"] = len(best)
                row[f"covered@{k}"] = float(shown[best].any(0).float().mean())
            rows.append(row)
    return rows


def summarise_recall(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, dict[str, Interval]]:
    """Recall, precision and coverage at every k by mode, and recall over the oracle's at the same steps.

    Recall@k is the share of the frames there are to find, at most k, that the k best are; precision@k the share of the
    k best that show the view; coverage@k what they show of what all old frames show of it. Each is a ratio of sums.
    """
    modes: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        modes.setdefault(row["mode"], []).append(row)
    ks = sorted(int(name.removeprefix("shown@")) for name in rows[0] if name.startswith("shown@"))
    maps = np.array([row["map_seed"] for row in next(iter(modes.values()))])

    def column(mode: str, name: str) -> Float[np.ndarray, " step"]:
        return np.array([row[name] for row in modes[mode]], dtype=np.float64)

    def ratio(top: Float[np.ndarray, " step"], bottom: Float[np.ndarray, " step"]) -> Interval:
        return ratio_bootstrap(top, bottom, maps, np.random.default_rng(seed))

    figures: dict[str, dict[str, Interval]] = {}
    for mode in modes:
        figures[mode] = {}
        for k in ks:
            shown, covered = column(mode, f"shown@{k}"), column(mode, f"covered@{k}")
            figures[mode] |= {
                f"recall@{k}": ratio(shown, column(mode, f"could@{k}")),
                f"precision@{k}": ratio(shown, column(mode, f"recalled@{k}")),
                f"coverage@{k}": ratio(covered, column(mode, "coverable")),
                f"of_oracle@{k}": ratio(shown, column("oracle", f"shown@{k}")),
            }
    return figures
