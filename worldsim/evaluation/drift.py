"""How far does free rollout drift? Long rollouts on recorded actions against real play on the same steps."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from worldsim.checkpoint import WorldModels
from worldsim.errors import check_at_least
from worldsim.evaluation.bootstrap import Interval
from worldsim.evaluation.displaced import displaced_play
from worldsim.evaluation.drift_page import drift_page, write_drift_strip, write_sharpness_plot
from worldsim.evaluation.drift_summary import METRICS, edge, summarise
from worldsim.evaluation.features import feature_distances
from worldsim.evaluation.fidelity import action_fidelity, fit_judge
from worldsim.evaluation.held_out import EncodedEpisode, HeldOut, decode
from worldsim.evaluation.inverse_dynamics import told_moves
from worldsim.evaluation.kept_rollouts import keep_rollouts
from worldsim.evaluation.reports import fingerprint, settings_text, write_json, write_text
from worldsim.evaluation.rollouts import (
    Beginning,
    Rollout,
    RolloutSettings,
    check_horizon,
    describe,
    roll_out,
    told,
)
from worldsim.recall import MemoryMode
from worldsim.video import VideoWriter

SHOWN = (0.0, 1 / 15, 1 / 6, 1 / 3, 2 / 3, 1.0)
"""Frames of a film strip as shares of the rollout: 0, 20, 50, 100, 199, 299 of 300."""


@dataclass(frozen=True, kw_only=True)
class DriftEvaluation(RolloutSettings):
    """Roll held-out episodes out freely for many frames on their recorded actions and compare with real play."""

    checkpoint: Path
    """Checkpoint folder."""
    data: Path
    """Folder of held-out episodes."""
    out: Path
    """Folder for drift.json, drift.md, a plot and film strips."""
    rollouts: int = 32
    """Rollouts, each from another episode as far as they go."""
    batch: int | None = None
    """Rollouts made at once, and kept until the evaluation has ended: a rerun goes on behind them. None takes 8 on a
    CPU and 64 on a GPU."""
    frames: int = 300
    """Frames of each rollout."""
    history: int = 64
    """Fewest true frames before a rollout."""
    memory_mode: MemoryMode = "hybrid"
    """Memory mode."""
    still_after: int | None = None
    """Press no key from this frame on, 0 from the first: real play then shows one frame for ever, and whatever moves or
    grows is the model's. Rollouts are that much longer; what is measured and shown begins there."""
    displaced: bool = False
    """Also play every rollout's steps in the game where another rollout begins: what real play shows once the steps have
    nothing to do with the walls around, as those of a rollout that has left the recorded place."""
    judge_steps: int = 2400
    """Steps that the judge of action fidelity is trained for, on real play; 0 leaves action fidelity out, as does standing
    still."""
    clips: int = 0
    """Rollouts of which the model's own frames are written as videos, for people to compare with worldsim compare."""
    strips: int = 4
    """Film strips, evenly from the sharpest to the least sharp end."""
    seed: int = 0
    """Chooses starts, noise and bootstrap samples."""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "rollouts", "history")
        if self.batch is not None:
            check_at_least(self, 1, "batch")
        check_at_least(self, 0, "judge_steps", "clips")
        check_at_least(self, 8, "frames")
        if self.still_after is not None:
            check_at_least(self, 0, "still_after")
            if self.displaced:
                raise ValueError("displaced play walks to the end: leave out --still-after or --displaced")

    @property
    def walked(self) -> int:
        """Frames made before those that are measured."""
        return self.still_after or 0

    @property
    def horizon(self) -> int:
        """All frames of a rollout."""
        return self.walked + self.frames

    @property
    def run(self) -> str:
        """16 hex digits of checkpoint, data and every setting that changes the frames made: equal where these are."""
        words = self.identity_of(
            "rollouts", "batch", "frames", "history", "memory_mode", "still_after", "seed"
        )
        return fingerprint(self.checkpoint, self.data, words)


def run_drift(settings: DriftEvaluation) -> dict:
    """Measure how far free rollout drifts; writes drift.json, drift.md, a plot and film strips, returns the JSON.

    Raises:
        ValueError: every episode too short, or the model makes values that are not numbers.
        OSError: checkpoint or data missing.
    """
    held_out = HeldOut(settings.data)
    models = held_out.load_models(settings.checkpoint, settings.device)
    lot = settings.batch or (8 if models.device.type == "cpu" else 64)
    settings = replace(told(settings, models), batch=lot)
    horizon = settings.horizon
    check_horizon(horizon, models.schedule.section)
    starts = choose_starts(held_out, settings)
    stops: dict[int, int] = {}
    for each, step in starts:
        stops[each] = max(stops.get(each, 0), step + horizon)
    encoded = held_out.encode(models, stops)
    beginnings = [
        Beginning.of(held_out, encoded[each], each, step, horizon, settings.seed) for each, step in starts
    ]
    if settings.still_after is not None:
        beginnings = [beginning.stopped(settings.walked) for beginning in beginnings]
    folder = settings.out / f"partial-{settings.run}"
    world = settings.world(settings.memory_mode)
    with tqdm(total=len(starts) * horizon, desc="drift", unit="frame", smoothing=0.1) as progress:
        rollouts, seconds = keep_rollouts(
            beginnings, folder, lot,
            lambda some: roll_out(models, some, world, settings.plan, progress),
            lambda count: progress.update(count * horizon),
        )  # fmt: skip
    rollouts = [rollout.since(settings.walked) for rollout in rollouts]
    elsewhere = displaced_play(held_out, starts, settings.frames) if settings.displaced else None
    series = describe_all(models, encoded, starts, rollouts, elsewhere, settings)
    maps = np.array([held_out.map_seeds[each] for each, _ in starts])
    summary = {
        "settings": {**settings_text(settings), "sampler": settings.sampler},
        "starts": [
            {"episode": held_out.paths[each].name, "map_seed": held_out.map_seeds[each], "step": step}
            for each, step in starts
        ],
        "maps": len(np.unique(maps)),
        "model": {
            "schedule": models.schedule.text,
            "tokens": models.schedule.tokens(
                models.transformer.config.latent_height, models.transformer.config.latent_width
            ),
            "parameters": sum(each.numel() for each in models.transformer.parameters()),
        },
        "seconds_a_frame": seconds / (len(starts) * horizon),
        **summarise(series, maps, settings.seed),
        "features": feature_distances(
            [rollout.latents for rollout in rollouts],
            [encoded[each].latents[shown_by_real_play(step, settings)].cpu() for each, step in starts],
            edge(settings.frames),
        ),
    }
    if settings.judge_steps and settings.still_after is None:
        summary["action_fidelity"] = judge_rollouts(
            held_out, models, encoded, starts, beginnings, rollouts, elsewhere, settings
        )
    for i, rollout in enumerate(rollouts[: settings.clips]):
        write_clip(settings.out / "clips" / f"{i:03d}.mp4", rollout.frames_u8)
    write_sharpness_plot(series, settings.out / "drift_sharpness.png")
    strips = write_strips(held_out, encoded, starts, rollouts, series["model"]["sharpness"], settings)
    write_text(settings.out / "drift.md", drift_page(summary, settings.out / "drift_sharpness.png", strips))
    write_json(settings.out / "drift.json", summary)
    shutil.rmtree(folder)
    return summary


def describe_all(
    models: WorldModels,
    encoded: dict[int, EncodedEpisode],
    starts: Sequence[tuple[int, int]],
    rollouts: Sequence[Rollout],
    elsewhere: Sequence[UInt8[Tensor, "_ height width 3"]] | None,
    settings: DriftEvaluation,
) -> dict[str, dict[str, Float[np.ndarray, "rollout _"]]]:
    """Every metric, (rollout, frame), of the model's frames, of real play's, of those through the autoencoder, and of
    displaced play where it is asked for."""
    made, real, ceiling = [], [], []
    progress = tqdm(starts, desc="measure", unit="rollout")
    for (each, step), rollout in zip(progress, rollouts, strict=True):
        made.append(describe(rollout.frames_u8, models.device))
        span = shown_by_real_play(step, settings)
        real.append(describe(encoded[each].frames_u8[span], models.device))
        ceiling.append(describe(decode(models.autoencoder, encoded[each].latents[span]), models.device))
    sources = {"model": made, "real": real, "autoencoder": ceiling}
    if elsewhere is not None:
        sources["displaced"] = [describe(frames_u8, models.device) for frames_u8 in elsewhere]
    return {
        source: {name: np.stack([figures[name] for figures in each]) for name in METRICS}
        for source, each in sources.items()
    }


def judge_rollouts(
    held_out: HeldOut,
    models: WorldModels,
    encoded: dict[int, EncodedEpisode],
    starts: Sequence[tuple[int, int]],
    beginnings: Sequence[Beginning],
    rollouts: Sequence[Rollout],
    elsewhere: Sequence[UInt8[Tensor, "_ height width 3"]] | None,
    settings: DriftEvaluation,
) -> dict[str, dict[str, dict[str, Interval]]]:
    """Which steps turn and move as told: the model's, real play's, and those of displaced play where it is asked for."""
    rolled_out = {each for each, _ in starts}
    judge = fit_judge(held_out, rolled_out, settings.judge_steps, models.device, settings.seed)
    told, real, made = [], [], []
    for (each, step), beginning, rollout in zip(starts, beginnings, rollouts, strict=True):
        actions = np.concatenate((beginning.history_actions, beginning.actions))
        told.append(told_moves(models.odometer.motion, torch.from_numpy(actions))[-settings.frames :])
        real.append(encoded[each].frames_u8[step - 1 : step + settings.frames])
        made.append(torch.cat((real[-1][:1], rollout.frames_u8)))
    shown = {"model": made, "real": real}
    if elsewhere is not None:
        shown["displaced"] = list(elsewhere)
    maps = np.array([held_out.map_seeds[each] for each, _ in starts])
    return action_fidelity(judge, told, shown, maps, edge(settings.frames), settings.seed)


def write_clip(path: Path, frames_u8: UInt8[Tensor, "time height width 3"]) -> None:
    """The model's frames as a video."""
    with VideoWriter(path) as video:
        for frame in frames_u8.numpy():
            video.append(frame)


def write_strips(
    held_out: HeldOut,
    encoded: dict[int, EncodedEpisode],
    starts: Sequence[tuple[int, int]],
    rollouts: Sequence[Rollout],
    sharpness: Float[np.ndarray, "rollout frame"],
    settings: DriftEvaluation,
) -> list[Path]:
    """Film strips from the sharpest to the least sharp end."""
    order = np.argsort(-sharpness[:, -edge(settings.frames) :].mean(axis=1), kind="stable")
    strips = []
    for place in dict.fromkeys(
        np.linspace(0, len(starts) - 1, min(settings.strips, len(starts))).astype(int)
    ):
        each, step = starts[order[place]]
        truth = encoded[each].frames_u8[shown_by_real_play(step, settings)]
        shown = [round(share * (settings.frames - 1)) for share in SHOWN]
        title = f"map {held_out.map_seeds[each]}, rank {place + 1} of {len(starts)} by sharpness at the end"
        path = settings.out / f"drift_{place + 1:02d}_of_{len(starts)}.png"
        strips.append(write_drift_strip(truth, rollouts[order[place]].frames_u8, shown, title, path))
    return strips


def shown_by_real_play(step: int, settings: DriftEvaluation) -> Int64[Tensor, " frame"]:
    """Numbers of the recorded frames that a rollout from `step` is compared with."""
    numbers = torch.arange(step, step + settings.frames)
    return numbers if settings.still_after is None else torch.full_like(numbers, step + settings.walked - 1)


def choose_starts(held_out: HeldOut, settings: DriftEvaluation) -> list[tuple[int, int]]:
    """(episode, step) of each rollout: episodes in random order, used again only when all have been used."""
    rng = np.random.default_rng(settings.seed)
    horizon = settings.horizon
    need = settings.history + horizon
    long_enough = [index for index, length in enumerate(held_out.lengths) if length >= need]
    if not long_enough:
        raise ValueError(
            f"the longest of {len(held_out.lengths)} episodes has {max(held_out.lengths)} steps, fewer than history "
            f"{settings.history} + frames {horizon}; record longer episodes or ask for fewer frames"
        )
    starts: list[tuple[int, int]] = []
    while len(starts) < settings.rollouts:
        for index in rng.permutation(long_enough)[: settings.rollouts - len(starts)]:
            latest = held_out.lengths[index] - horizon
            starts.append((int(index), int(rng.integers(settings.history, latest + 1))))
    return starts
