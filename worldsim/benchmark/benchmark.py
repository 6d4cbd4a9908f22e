"""The whole revisit benchmark as one command: routes, true history, recall alone, own history, a page."""

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from envs.maze import MazeEnvSettings
from envs.maze_map import MazeMapSettings
from envs.routes import KINDS, RouteKind
from worldsim.benchmark.contestant import load_contestants, run_contestant
from worldsim.benchmark.covisible_recall import CovisibleRecallSettings, covisible_recall, summarise_recall
from worldsim.benchmark.latency import recall_latency
from worldsim.benchmark.own_history import OwnHistorySettings, OwnWorlds, own_returns, summarise_own
from worldsim.benchmark.page import write_pages
from worldsim.checkpoint import WorldModels
from worldsim.device import choose_device
from worldsim.errors import check_at_least
from worldsim.evaluation.fidelity import fit_judge
from worldsim.evaluation.held_out import HeldOut
from worldsim.evaluation.lpips import Lpips, LpipsWeights, load_lpips
from worldsim.evaluation.replayed_depth import replayed_depths
from worldsim.evaluation.reports import fingerprint, settings_text, write_json
from worldsim.evaluation.revisit_tables import BASELINES
from worldsim.evaluation.revisits import (
    EvaluatedMode,
    RevisitEvaluation,
    choose_starts,
    report_revisits,
    score_all,
)
from worldsim.evaluation.rollouts import RolloutSettings, told
from worldsim.evaluation.shared_rows import shared_rows
from worldsim.evaluation.starts import Start
from worldsim.record import RecordSettings, record

ALL_MODES: tuple[EvaluatedMode, ...] = (
    "off", "random", "wrong-map", "time", "cosine", "place", "hybrid", "oracle",
)  # fmt: skip
QUICK_KINDS: tuple[RouteKind, ...] = ("look-away", "twins", "never-visited")
"""the shortest, so that little history has to be encoded"""
GAP = 4
"""recent contexts from which a gap counts as long"""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(RolloutSettings):
    """Measure how well a world model's memory rebuilds places, after the protocol of docs/benchmark.md."""

    checkpoint: tyro.conf.Positional[Path]
    """Checkpoint folder."""
    out: Path
    """Folder for benchmark.html, .md and .json and everything below them; a second run goes on."""
    data: Path | None = None
    """Folder of recorded routes on held-out maps; None records them in the folder `out`."""
    quick: bool = False
    """Some ten minutes on two CPU cores: few and short routes, one sample, three modes. To see it run, not to compare."""
    kinds: tuple[RouteKind, ...] = KINDS
    """Kinds of routes to record, where no data are given."""
    episodes: int = 140
    """Episodes of routes to record, each on a map of its own, where no data are given."""
    steps: int = 1000
    """Steps of each."""
    starts: int = 300
    """Most returns to roll out."""
    controls: int = 100
    """Most views never seen before."""
    samples: int = 3
    """Rollouts of each start and mode, each with noise of its own."""
    modes: tuple[EvaluatedMode, ...] = ALL_MODES
    """Memory modes under the same weights."""
    contestants: tuple[str, ...] = ()
    """Other models, each as module:factory; see worldsim/benchmark/contestant.py."""
    own: OwnHistorySettings = field(default_factory=OwnHistorySettings)
    """Worlds that make up the first visit too."""
    recall: CovisibleRecallSettings = field(default_factory=CovisibleRecallSettings)
    """Recall alone."""
    horizon: int = 16
    """Frames to make from each start."""
    lpips: LpipsWeights | None = None
    """Files of weights to tell LPIPS by: AlexNet's as torchvision has them, and v0.1/alex.pth of the package lpips."""
    judge_steps: int = 2400
    """Steps that the judge of action fidelity is trained for; 0 leaves action fidelity out."""
    strips: int = 5
    """Film strips of returns, from the most gained by memory to the least, and of own histories."""
    batch: int = 64
    """Starts rolled out at once."""
    seed: int = 0
    """Chooses starts, noise and bootstrap samples."""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "episodes", "starts", "samples", "horizon", "batch")
        check_at_least(self, 0, "controls", "judge_steps", "strips")
        if not {"off", "hybrid"} <= {*self.modes}:
            raise ValueError(
                f"modes {' '.join(self.modes)} lack off or hybrid, which the page compares; add them"
            )

    def sized(self) -> "BenchmarkSettings":
        """As it is, or if `quick` with few routes."""
        if not self.quick:
            return self
        own = dataclasses.replace(self.own, routes=2, longest=120)
        return dataclasses.replace(
            self, kinds=QUICK_KINDS, episodes=8, steps=500, starts=8, controls=4, samples=1, judge_steps=0, strips=2,
            own=own, modes=("off", "hybrid", "oracle"),
        )  # fmt: skip

    def identity(self, revisits: RevisitEvaluation) -> str:
        """Every setting that changes a figure."""
        return f"{revisits.identity} {self.own} {self.recall} {self.judge_steps}"

    def revisits(self, data: Path) -> RevisitEvaluation:
        """The part with true history."""
        names = {each.name for each in dataclasses.fields(RolloutSettings)} | {
            "checkpoint", "starts", "controls", "samples", "modes", "horizon", "strips", "batch", "seed", "device", "lpips",
        }  # fmt: skip
        given = {name: getattr(self, name) for name in names}
        return RevisitEvaluation(data=data, out=self.out / "true_history", covisible=True, **given)


def run_benchmark(settings: BenchmarkSettings) -> dict[str, Any]:
    """Run what is missing, write the pages, return the JSON.

    Raises:
        ValueError: an episode does not replay, no route comes back, a contestant gives something else than frames.
        OSError: checkpoint, data or LPIPS's weights missing.
    """
    settings = settings.sized()
    lpips = load_lpips(settings.lpips, choose_device(settings.device))
    contestants = load_contestants(settings.contestants, (*settings.modes, *BASELINES))
    data = settings.data or record_routes(settings)
    held_out = HeldOut(data, keep=True)
    models = held_out.load_models(settings.checkpoint, settings.device)
    settings = told(settings, models)
    revisits = settings.revisits(data)
    starts = choose_starts(revisits, held_out, models.schedule.recent_frames)
    if not models.schedule.recalled.frames:
        raise ValueError(
            f"the model's schedule {models.schedule.text!r} recalls no frames: use a model of one with rNkM"
        )
    run = fingerprint(settings.checkpoint, data, settings.identity(revisits))
    folder = settings.out / f"partial-{run}"
    if not (folder / "recall.jsonl").exists():
        # The gate: no figure is told of an episode that the game does not replay exactly.
        replayed_depths(held_out, last_frames(starts, settings.horizon))
    summary: dict[str, Any] = {
        "settings": {**settings_text(settings), "sampler": settings.sampler},
        "hardware": hardware(models.device),
        "run": run,
        "recent_frames": models.schedule.recent_frames,
        "routes": {
            kind: sum(start.kind == kind for start in starts) for kind in sorted({s.kind for s in starts})
        },
        "maps": len({start.map_seed for start in starts}),
    }
    rows = score_all(models, held_out, starts, revisits, folder, lpips)
    seeds = range(settings.seed, settings.seed + settings.samples)
    for name, contestant in contestants.items():
        rows += run_contestant(
            name, contestant, held_out, starts, settings.horizon, folder, seeds, models.device, lpips
        )
    summary["true_history"] = report_revisits(revisits, held_out, models, rows)
    summary["recall"] = recall_alone(models, held_out, starts, settings, folder)
    summary["latency"] = latency(models, folder)
    summary["own_history"] = own_history(models, held_out, starts, settings, folder, lpips)
    write_json(settings.out / "benchmark.json", summary)
    write_pages(settings.out, summary)
    return summary


def last_frames(starts: Sequence[Start], horizon: int) -> dict[int, int]:
    """For each episode the frame after the last that is asked for."""
    return {start.episode: start.step + horizon for start in sorted(starts, key=lambda each: each.step)}


def record_routes(settings: BenchmarkSettings) -> Path:
    """Routes of every kind on held-out maps with twin rooms; what is there already is kept."""
    out = settings.out / "routes"
    record(
        RecordSettings(
            out=out, episodes=settings.episodes, steps=settings.steps, seed=500, held_out=True, routes=settings.kinds,
            env=MazeEnvSettings(map=MazeMapSettings(twins=True)),
        )
    )  # fmt: skip
    return out


def hardware(device: torch.device) -> str:
    """What the figures were made on."""
    return (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.machine()}, float32"
    )


def recall_alone(
    models: WorldModels, held_out: HeldOut, starts: Sequence[Start], settings: BenchmarkSettings, folder: Path
) -> dict[str, Any]:
    """Figures of all returns, and of those after a long gap."""
    returns = [start for start in starts if start.gap >= 0]
    rows = shared_rows(
        [folder / "recall.jsonl"],
        lambda _: covisible_recall(models, held_out, returns, settings.horizon, settings.recall),
    )
    parts = {
        "all": rows,
        f">{GAP}x": [row for row in rows if row["gap"] > GAP * models.schedule.recent_frames],
    }
    return {
        name: {
            "questions": sum(row["mode"] == "oracle" for row in part),
            "modes": summarise_recall(part, settings.seed),
        }
        for name, part in parts.items()
        if part
    }


def latency(models: WorldModels, folder: Path) -> dict[str, Any] | None:
    """How long recall takes; measured once a run, on whatever machine it began."""

    def measured(_: int) -> list[dict[str, Any]]:
        told = recall_latency(models)
        return [] if told is None else [told]

    rows = shared_rows([folder / "latency.jsonl"], measured)
    return rows[0] if rows else None


def own_history(
    models: WorldModels,
    held_out: HeldOut,
    starts: Sequence[Start],
    settings: BenchmarkSettings,
    folder: Path,
    lpips: Lpips | None,
) -> dict[str, Any] | None:
    """Figures of worlds that make up everything; None where no route comes back to its very view soon enough."""
    recent = models.schedule.recent_frames
    returns = own_returns(starts, held_out.poses, held_out.rooms, settings.horizon, recent, settings.own)
    if not returns:
        return None
    rolled_out = {each.start.episode for each in returns}
    judge = (
        fit_judge(held_out, rolled_out, settings.judge_steps, models.device, settings.seed)
        if settings.judge_steps
        else None
    )
    worlds = OwnWorlds(
        models=models, held_out=held_out, rollouts=settings, settings=settings.own, judge=judge, folder=folder,
        strips=settings.out / "own_history", seed=settings.seed, lpips=lpips,
    )  # fmt: skip
    return summarise_own(worlds.run(returns, settings.strips), settings.seed)
