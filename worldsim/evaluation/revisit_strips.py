"""Film strips of a revisit evaluation: truth, no memory, memory, oracle, and what memory recalled."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from worldsim.checkpoint import WorldModels
from worldsim.evaluation.held_out import EncodedEpisode, HeldOut
from worldsim.evaluation.revisit_tables import LAST
from worldsim.evaluation.rollouts import Beginning, Rollout, roll_out
from worldsim.evaluation.starts import Start
from worldsim.recall import MemoryMode
from worldsim.video import film_strip, write_png

if TYPE_CHECKING:
    from worldsim.evaluation.revisits import RevisitEvaluation

COLUMNS = 8
"""Frames a row."""


def memory_gains(rows: Sequence[dict], mode: str) -> list[tuple[float, Start]]:
    """PSNR gain in dB of `mode` over no memory on the last frames, one a revisit, from worst to best."""
    names = [field.name for field in dataclasses.fields(Start)]
    last: dict[Start, dict[str, list[float]]] = {}
    for row in rows:
        if row["gap"] >= 0:
            start = Start(**{name: row[name] for name in names})
            last.setdefault(start, {}).setdefault(row["mode"], []).append(float(np.mean(row["psnr"][-LAST:])))
    gains = [(float(np.mean(each[mode]) - np.mean(each["off"])), start) for start, each in last.items()]
    return sorted(gains, key=lambda pair: (pair[0], pair[1].episode, pair[1].step))


def write_strips(
    models: WorldModels, held_out: HeldOut, rows: Sequence[dict], settings: "RevisitEvaluation"
) -> list[Path]:
    """Roll the chosen starts out once more and write one film strip each, named after its rank."""
    rolled: list[MemoryMode] = [each for each in settings.modes if each != "wrong-map"]
    mode: MemoryMode = "hybrid" if "hybrid" in rolled else rolled[-1]
    gains = memory_gains(rows, mode)
    count = min(settings.strips, len(gains))
    ranks: Iterable[int] = np.linspace(len(gains), 1, count).round().astype(int) if count else []
    paths = []
    for rank in dict.fromkeys(int(each) for each in ranks):
        gain, start = gains[rank - 1]
        place = len(gains) - rank + 1
        path = settings.out / f"revisit_{place:04d}_of_{len(gains)}.png"
        title = (
            f"map {start.map_seed} episode {start.episode} step {start.step}: {mode} gains {gain:+.2f} dB, "
            f"rank {place} of {len(gains)} starts"
        )
        _write_strip(models, held_out, start, settings, mode, title, path)
        paths.append(path)
    return paths


def _write_strip(
    models: WorldModels,
    held_out: HeldOut,
    start: Start,
    settings: "RevisitEvaluation",
    mode: MemoryMode,
    title: str,
    path: Path,
) -> None:
    stop = start.step + settings.horizon
    episode = held_out.encode(models, {start.episode: stop})[start.episode]
    beginning = Beginning.of(held_out, episode, start.episode, start.step, settings.horizon, settings.seed)
    shown = np.linspace(0, settings.horizon - 1, min(COLUMNS, settings.horizon)).round().astype(int).tolist()
    steps = ", ".join(f"+{each}" for each in shown)
    rows = [(f"{title} | truth, frames {steps}", _pick(episode.frames_u8[start.step : stop], shown))]
    shown_modes: list[MemoryMode] = ["off", mode, "oracle"]
    for each in dict.fromkeys(name for name in shown_modes if name in settings.modes):
        [rollout] = roll_out(models, [beginning], settings.world(each), settings.plan)
        label = {"off": "memory off", "oracle": "oracle"}.get(each, f"memory {each}")
        rows.append((label, _pick(rollout.frames_u8, shown)))
        if each != "off":
            rows.append(_recalled_row(episode, start, rollout, shown, label))
    write_png(path, film_strip(rows))


def _pick(frames_u8: torch.Tensor, shown: Sequence[int]) -> list[np.ndarray]:
    return [frames_u8[index].numpy() for index in shown]


def _recalled_row(
    episode: EncodedEpisode, start: Start, rollout: Rollout, shown: Sequence[int], label: str
) -> tuple[str, list[np.ndarray]]:
    """The best recalled frame under each frame shown; black where nothing was recalled."""
    frames, ages = [], []
    for index in shown:
        recalled = rollout.recalled[index]
        if not recalled:
            frames.append(np.zeros_like(rollout.frames_u8[index].numpy()))
            ages.append("none")
        else:
            frames.append(rollout.frame(episode.frames_u8, recalled[0], start.step).numpy())
            ages.append(str(start.step + index - recalled[0]))
    return f"best frame recalled by {label}, steps ago: {', '.join(ages)}", frames
