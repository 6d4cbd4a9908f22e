"""Recall alone: does memory find frames that show the coming view? No frame is made, so a few minutes are enough."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from tqdm import tqdm

from retrieval.motion import offset_from
from worldsim.checkpoint import WorldModels
from worldsim.errors import check_at_least
from worldsim.evaluation.bootstrap import cluster_bootstrap
from worldsim.evaluation.held_out import EncodedEpisode, HeldOut
from worldsim.evaluation.recall_steps import Steps, steps_of
from worldsim.evaluation.reports import markdown_table, settings_text, with_interval, write_json, write_text
from worldsim.evaluation.starts import Start, StartSettings, find_starts, same_view

LAGS = (10, 30, 100, 300)
"""steps over which the odometer's error is told"""
ENCODED_AT_ONCE = 32
"""episodes held in memory at a time"""


@dataclass(frozen=True, kw_only=True)
class RecallEvaluation:
    """Rank all old true frames for the steps of held-out revisits, by every score, and compare with true poses."""

    checkpoint: Path
    """Checkpoint folder."""
    data: Path
    """Folder of held-out episodes."""
    out: Path
    """Folder for recall.json and recall.md."""
    starts: int = 256
    """Most revisits to look at; see `worldsim evaluate revisits`."""
    horizon: int = 16
    """Steps of each."""
    heading_weights: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4)
    """Weights of the heading to try in the hybrid score, beside the checkpoint's."""
    position_weights: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1)
    """Weights of the position to try with each of them."""
    thresholds: StartSettings = field(default_factory=StartSettings)
    """What counts as a revisit, and as the same view."""
    seed: int = 0
    """Chooses starts and bootstrap samples."""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "starts", "horizon")


def run_recall(settings: RecallEvaluation) -> dict:
    """Measure recall alone; writes recall.json and recall.md, returns the JSON.

    Raises:
        ValueError: no start found.
        OSError: checkpoint or data missing.
    """
    held_out = HeldOut(settings.data)
    models = held_out.load_models(settings.checkpoint, settings.device)
    starts = find_starts(
        held_out.poses, held_out.rooms, held_out.map_seeds, count=settings.starts, horizon=settings.horizon,
        recent=models.schedule.recent_frames, seed=settings.seed, settings=settings.thresholds,
    )  # fmt: skip
    hits: dict[str, list[np.ndarray]] = {}
    maps: list[int] = []
    apart: dict[int, list[np.ndarray]] = {lag: [] for lag in LAGS}
    offsets: dict[str, list[np.ndarray]] = {"told": [], "registered": []}
    for episode, steps, encoded in tqdm(
        episodes_steps(models, held_out, starts, settings),
        total=len({s.episode for s in starts}),
        desc="recall",
    ):
        maps += [held_out.map_seeds[episode]] * len(steps.times)
        scored = steps.scores(models.recall)
        for heading in settings.heading_weights:
            for position in settings.position_weights:
                tried = replace(models.recall, heading_weight=heading, position_weight=position)
                scored[f"heading {heading:g}, position {position:g}"] = steps.scores(tried)["hybrid"]
        for name, scores in scored.items():
            hits.setdefault(name, []).append(steps.hits(scores, models.recall.gap_frames))
        for lag, errors in odometer_errors(steps).items():
            apart[lag].append(errors)
        for name, errors in offset_errors(steps, encoded).items():
            offsets[name].append(errors)
    summary = {
        "settings": settings_text(settings),
        "recall": settings_text(models.recall),
        "starts": len(starts),
        "steps": len(maps),
        "scores": {name: _figures(np.concatenate(each), maps, settings.seed) for name, each in hits.items()},
        "odometer_error": {
            str(lag): np.percentile(np.concatenate(each), (25, 50, 75)).tolist()
            for lag, each in apart.items()
            if sum(len(one) for one in each)
        },
        "offset_error": {
            name: np.percentile(np.concatenate(each), (25, 50, 75)).tolist() for name, each in offsets.items()
        },
    }
    write_json(settings.out / "recall.json", summary)
    write_text(settings.out / "recall.md", recall_page(summary))
    return summary


@torch.no_grad()
def episodes_steps(
    models: WorldModels, held_out: HeldOut, starts: Sequence[Start], settings: RecallEvaluation
) -> Iterator[tuple[int, Steps, EncodedEpisode]]:
    """For every episode the steps whose view a frame before the start shows: where there is something to find."""
    found: dict[int, dict[int, Bool[np.ndarray, " frame"]]] = {}
    for start in starts:
        poses, rooms = held_out.poses[start.episode], held_out.rooms[start.episode]
        for time in range(start.step, start.step + settings.horizon):
            seen = same_view(poses, rooms, time, settings.thresholds)
            if seen[: start.step].any():
                found.setdefault(start.episode, {})[time] = seen
    for part in torch.tensor(sorted(found)).split(ENCODED_AT_ONCE):
        encoded = held_out.encode(models, {episode: max(found[episode]) + 1 for episode in part.tolist()})
        for episode in part.tolist():
            yield (
                episode,
                steps_of(models, held_out, episode, encoded[episode], found[episode]),
                encoded[episode],
            )


def odometer_errors(steps: Steps) -> dict[int, Float[np.ndarray, " _"]]:
    """Distance between estimated and true places, both seen from a frame `lag` steps before, as last settled."""
    true = offset_from(steps.true_poses, steps.true_poses[:1])
    off = steps.poses[-1, :, :2] - true
    return {lag: (off[lag:] - off[:-lag]).norm(dim=1).cpu().numpy() for lag in LAGS if len(off) > lag}


@torch.no_grad()
def offset_errors(steps: Steps, encoded: EncodedEpisode) -> dict[str, Float[np.ndarray, " step"]]:
    """How far the frame that shows each step's view best is from where it is told to be, in the newest frame's axes.

    Told by the places that memory has, and registered with the newest frame.
    """
    newest = torch.tensor(steps.times, device=steps.keys.device) - 1
    scores = steps.scores(steps.models.recall)["oracle"].masked_fill(~steps.shows, -torch.inf)
    best = scores.masked_fill(
        torch.arange(scores.shape[1], device=newest.device) >= newest[:, None], -torch.inf
    )
    shown = best.argmax(1)
    rows = torch.arange(len(newest), device=newest.device)
    here, there = steps.poses[rows, newest], steps.poses[rows, shown][:, None]
    registered = steps.models.odometer.registered(
        encoded.latents[newest], here, encoded.latents[shown][:, None], there
    )
    true = offset_from(steps.true_poses[shown], steps.true_poses[newest])
    return {
        name: (offset_from(poses[:, 0], here) - true).norm(dim=1).cpu().numpy()
        for name, poses in (("told", there), ("registered", registered))
    }


def _figures(hits: Bool[np.ndarray, "step recalled"], maps: Sequence[int], seed: int) -> dict:
    kinds = {"hit": hits.any(1), "best": hits[:, 0], "precision": hits.mean(1)}
    return {
        name: cluster_bootstrap(each.astype(np.float64), np.array(maps), np.random.default_rng(seed))
        for name, each in kinds.items()
    }


def recall_page(summary: dict) -> str:
    """Tables of the scores and of the odometer."""
    rows = [
        (name, *(with_interval(figures[kind], 3) for kind in ("hit", "best", "precision")))
        for name, figures in summary["scores"].items()
    ]
    apart = [
        (lag, *(f"{value:.1f}" for value in quartiles))
        for lag, quartiles in summary["odometer_error"].items()
    ]
    parts = [
        "# Recall alone",
        f"{summary['steps']} steps of {summary['starts']} revisits with something to find, after true history. Hit: a "
        "recalled frame shows the coming view by true pose; best: the best-scored one does; precision: share that do. "
        "Hybrid with the checkpoint's weights, then with others. Intervals: 95 %, bootstrap over maps.",
        markdown_table(("score", "hit", "best", "precision"), rows),
        "How far estimated places are off after so many steps, in map units (quartiles); "
        "as they have settled by an episode's last step.",
        markdown_table(("steps", "25 %", "median", "75 %"), apart),
        "How far the frame that shows the view best is from where the model is told it is, in map units (quartiles).",
        markdown_table(
            ("by", "25 %", "median", "75 %"),
            [
                (name, *(f"{value:.1f}" for value in quartiles))
                for name, quartiles in summary["offset_error"].items()
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"
