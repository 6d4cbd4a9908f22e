"""Are visited places rebuilt? Rollouts over revisits under every memory mode, the same weights and the same noise."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from worldsim.checkpoint import WorldModels
from worldsim.device import choose_device
from worldsim.errors import check_at_least
from worldsim.evaluation.held_out import EncodedEpisode, HeldOut, decode
from worldsim.evaluation.lpips import Lpips, LpipsWeights, load_lpips, weights_digest
from worldsim.evaluation.recalled import copy_recalled, recall_hits, twins_recalled
from worldsim.evaluation.replayed_depth import seen_masks
from worldsim.evaluation.reports import (
    fingerprint,
    settings_text,
    write_json,
    write_text,
)
from worldsim.evaluation.revisit_strips import write_strips
from worldsim.evaluation.revisit_tables import revisit_page, summarise
from worldsim.evaluation.rollouts import (
    Beginning,
    Rollout,
    RolloutSettings,
    check_horizon,
    compare,
    roll_out,
    told,
)
from worldsim.evaluation.route_starts import find_route_starts, recorded_routes
from worldsim.evaluation.seen_pixels import masked_psnr
from worldsim.evaluation.shared_rows import shared_rows
from worldsim.evaluation.starts import Start, StartSettings, find_starts
from worldsim.recall import MEMORY_MODES, MemoryMode

EvaluatedMode = MemoryMode | Literal["wrong-map"]
"""wrong-map: hybrid recall in a memory whose older frames show another map: what recall finds is no help, and the model
should not lean on it"""


@dataclass(frozen=True, kw_only=True)
class RevisitEvaluation(RolloutSettings):
    """Roll out held-out revisits after true history with each memory mode and compare with what was recorded."""

    checkpoint: Path
    """Checkpoint folder."""
    data: Path
    """Folder of held-out episodes."""
    out: Path
    """Folder for revisits.json, revisits.md, film strips and partial results; a second run goes on from those."""
    starts: int = 256
    """Most revisits to roll out."""
    controls: int = 64
    """Most views never seen before to roll out as well: there memory must do no harm. 0 for none."""
    horizon: int = 16
    """Frames to make from each start."""
    modes: tuple[EvaluatedMode, ...] = MEMORY_MODES
    """Memory modes to compare, off among them; wrong-map: hybrid recall from another map's frames."""
    samples: int = 1
    """Rollouts of each start and mode, each with noise of its own; a start's figures are their mean."""
    batch: int = 64
    """Starts rolled out at once."""
    recent: int | None = None
    """Newest frames in which a view counts as not gone when starts are chosen; None takes the schedule's context. Models of
    several schedules are compared on the same starts with one number for all."""
    covisible: bool = False
    """Replay the episodes for their depth, and score pixels that history has shown apart from those that it has not."""
    lpips: LpipsWeights | None = None
    """Files of weights to tell LPIPS by: AlexNet's as torchvision has them, and v0.1/alex.pth of the package lpips."""
    strips: int = 3
    """Film strips: the best, the median and the worst start by gain over no memory, and so on evenly between."""
    thresholds: StartSettings = field(default_factory=StartSettings)
    """What counts as a revisit."""
    seed: int = 0
    """Chooses starts, noise and bootstrap samples."""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "off" not in self.modes:
            raise ValueError(
                f"modes {' '.join(self.modes)} lack off, which the others are compared with; add it"
            )
        check_at_least(self, 1, "starts", "horizon", "batch", "samples")
        check_at_least(self, 0, "controls", "strips")
        if self.thresholds.ahead >= self.horizon:
            raise ValueError(
                f"thresholds.ahead {self.thresholds.ahead} lies beyond the horizon of {self.horizon} frames; "
                "the revisit would never be made: use a smaller one"
            )

    @property
    def identity(self) -> str:
        """Every setting that changes a figure."""
        weights = {} if self.lpips is None else {"lpips": weights_digest(self.lpips)}
        return self.identity_of(
            "starts", "controls", "horizon", "modes", "samples", "batch", "thresholds", "seed", "recent", "covisible",
            **weights,
        )  # fmt: skip

    @property
    def run(self) -> str:
        """16 hex digits of settings, checkpoint and data: equal where figures are."""
        return fingerprint(self.checkpoint, self.data, self.identity)


def run_revisits(settings: RevisitEvaluation) -> dict:
    """Measure how well visited places are rebuilt; writes revisits.json, revisits.md and film strips, returns the JSON.

    Raises:
        ValueError: no start found, or the model makes values that are not numbers.
        OSError: checkpoint, data or LPIPS's weights missing.
    """
    lpips = load_lpips(settings.lpips, choose_device(settings.device))
    held_out = HeldOut(settings.data)
    models = held_out.load_models(settings.checkpoint, settings.device)
    settings = told(settings, models)
    check_horizon(settings.horizon, models.schedule.section)
    recent = models.schedule.recent_frames if settings.recent is None else settings.recent
    starts = choose_starts(settings, held_out, recent)
    folder = settings.out / f"partial-{settings.run}"
    rows = score_all(models, held_out, starts, settings, folder, lpips)
    return report_revisits(settings, held_out, models, rows)


def report_revisits(
    settings: RevisitEvaluation, held_out: HeldOut, models: WorldModels, rows: Sequence[dict]
) -> dict:
    """Write revisits.json, revisits.md and film strips of all rows; returns the JSON."""
    recent = models.schedule.recent_frames if settings.recent is None else settings.recent
    summary = {
        "settings": {**settings_text(settings), "sampler": settings.sampler},
        "run": settings.run,
        "recent_frames": recent,
        **summarise(rows, recent, settings.seed),
    }
    write_json(settings.out / "revisits.json", summary)
    strips = write_strips(models, held_out, rows, settings)
    write_text(settings.out / "revisits.md", revisit_page(summary, strips))
    return summary


def choose_starts(settings: RevisitEvaluation, held_out: HeldOut, recent: int) -> list[Start]:
    """Revisits and never-seen controls by episode and step; without controls where the episodes have none.

    On recorded routes where each of them comes back, whatever of it is still in the recent context.
    """
    kinds = recorded_routes(settings.data)
    if kinds:
        starts = find_route_starts(
            held_out.headers, held_out.poses, held_out.rooms, held_out.actions, kinds, count=settings.starts,
            controls=settings.controls, horizon=settings.horizon, seed=settings.seed, settings=settings.thresholds,
        )  # fmt: skip
        return sorted(starts, key=lambda start: (start.episode, start.step))

    def find(count: int, unseen: bool) -> list[Start]:
        return find_starts(
            held_out.poses,
            held_out.rooms,
            held_out.map_seeds,
            count=count,
            horizon=settings.horizon,
            recent=recent,
            seed=settings.seed,
            settings=settings.thresholds,
            unseen=unseen,
        )

    starts = find(settings.starts, unseen=False)
    if settings.controls:
        try:
            starts += find(settings.controls, unseen=True)
        except ValueError as error:
            print(f"note: without controls: {error}", file=sys.stderr)
    return sorted(starts, key=lambda start: (start.episode, start.step))


def score_all(
    models: WorldModels,
    held_out: HeldOut,
    starts: Sequence[Start],
    settings: RevisitEvaluation,
    folder: Path,
    lpips: Lpips | None = None,
) -> list[dict]:
    """One row for every start, sample and mode. Batches already in `folder` are read, not made again."""
    batches = [
        (sample, starts[first : first + settings.batch])
        for sample in range(settings.samples)
        for first in range(0, len(starts), settings.batch)
    ]
    paths = [folder / f"batch-{index:04d}.jsonl" for index in range(len(batches))]
    total = settings.samples * len(starts) * settings.horizon * len(settings.modes)
    with tqdm(total=total, desc="revisits", unit="frame", smoothing=0.1) as progress:

        def make(index: int) -> list[dict]:
            sample, batch = batches[index]
            # Starts are in order of steps, so the last one of an episode has the last stop.
            episodes = held_out.encode(models, {start.episode: span(start, settings).stop for start in batch})
            return score_batch(models, held_out, episodes, batch, settings, progress, sample, lpips)

        def found(index: int) -> None:
            progress.update(len(batches[index][1]) * settings.horizon * len(settings.modes))

        return shared_rows(paths, make, found)


def score_batch(
    models: WorldModels,
    held_out: HeldOut,
    episodes: dict[int, EncodedEpisode],
    starts: Sequence[Start],
    settings: RevisitEvaluation,
    progress: tqdm,
    sample: int = 0,
    lpips: Lpips | None = None,
) -> list[dict]:
    """Rows of one batch: every memory mode, then the baselines that need no rollout."""
    seed = settings.seed + sample
    beginnings = [
        Beginning.of(held_out, episodes[start.episode], start.episode, start.step, settings.horizon, seed)
        for start in starts
    ]
    truth = torch.stack([episodes[start.episode].frames_u8[span(start, settings)] for start in starts])
    made: dict[str, torch.Tensor] = {}
    recalled: dict[str, list[Rollout]] = {}
    for mode in settings.modes:
        begun, played = beginnings, settings.world("hybrid" if mode == "wrong-map" else mode)
        if mode == "wrong-map":
            begun = with_wrong_memories(beginnings, starts, models.schedule.recent_frames)
        recalled[mode] = roll_out(models, begun, played, settings.plan, progress)
        made[mode] = torch.stack([rollout.frames_u8 for rollout in recalled[mode]])
    last = [episodes[start.episode].frames_u8[start.step - 1].expand_as(truth[0]) for start in starts]
    made["copy last frame"] = torch.stack(last)
    if "oracle" in recalled:
        copies = [
            copy_recalled(episodes[start.episode], start, rollout)
            for start, rollout in zip(starts, recalled["oracle"], strict=True)
        ]
        made["copy best recalled"] = torch.stack(copies)
    latents = torch.cat([episodes[start.episode].latents[span(start, settings)] for start in starts])
    made["autoencoder"] = decode(models.autoencoder, latents).unflatten(0, truth.shape[:2])
    shown = seen_masks(held_out, starts, settings.horizon, models.device) if settings.covisible else None
    rows = []
    for name, frames in made.items():
        figures = compare(frames.flatten(0, 1), truth.flatten(0, 1), models.device, lpips)
        for index, start in enumerate(starts):
            row: dict = {**asdict(start), "mode": name}
            for figure, values in figures.items():
                row[figure] = values.reshape(len(starts), -1)[index].round(7).tolist()
            if shown is not None:
                for part, mask in (("seen", shown[index]), ("unseen", ~shown[index])):
                    row[f"psnr_{part}"] = masked_psnr(frames[index], truth[index], mask)
            if name in recalled and name != "wrong-map":
                row["hits"] = recall_hits(held_out, start, recalled[name][index], settings.thresholds)
                if start.kind == "twins":
                    row["twins"] = twins_recalled(held_out, start, recalled[name][index])
            rows.append(row)
    return rows


def with_wrong_memories(
    beginnings: Sequence[Beginning], starts: Sequence[Start], recent: int
) -> list[Beginning]:
    """Each with the memory of the next start on another map. ValueError where there is no other map."""
    swapped = []
    for i, beginning in enumerate(beginnings):
        others = [j for j in (*range(i, len(starts)), *range(i)) if starts[j].map_seed != starts[i].map_seed]
        if not others:
            raise ValueError(
                f"all {len(starts)} starts rolled out at once are on map {starts[i].map_seed}: there is no wrong map; use "
                "a larger --batch or leave wrong-map out"
            )
        swapped.append(beginning.with_memory_of(beginnings[others[0]], recent))
    return swapped


def span(start: Start, settings: RevisitEvaluation) -> slice:
    """The frames a rollout from `start` makes."""
    return slice(start.step, start.step + settings.horizon)
