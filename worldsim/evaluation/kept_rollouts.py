"""Rollouts kept on disk lot by lot, so that an evaluation that was killed goes on where it was."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from worldsim.evaluation.rollouts import Beginning, Rollout
from worldsim.tensor_files import save_tensors


def keep_rollouts(
    beginnings: Sequence[Beginning],
    folder: Path,
    lot: int,
    make: Callable[[Sequence[Beginning]], list[Rollout]],
    found: Callable[[int], object],
) -> tuple[list[Rollout], float]:
    """Rollouts of all beginnings, `make` called for `lot` of them at a time, and the seconds that making them took.

    Lots that already lie in `folder` are read, not made again, and `found` is told how many rollouts they have.
    """
    rollouts: list[Rollout] = []
    seconds = 0.0
    for number, first in enumerate(range(0, len(beginnings), lot)):
        path = folder / f"rollouts-{number:04d}.safetensors"
        # A torn file is made anew like one that is missing.
        with suppress(FileNotFoundError, SafetensorError):
            kept, taken = read_rollouts(path)
            found(len(kept))
            rollouts, seconds = rollouts + kept, seconds + taken
            continue
        begun = time.perf_counter()
        made = make(beginnings[first : first + lot])
        taken = time.perf_counter() - begun
        write_rollouts(path, made, taken)
        rollouts, seconds = rollouts + made, seconds + taken
    return rollouts, seconds


def write_rollouts(path: Path, rollouts: Sequence[Rollout], seconds: float) -> None:
    """All of one length; `seconds` is how long they took. OSError if the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: torch.stack([getattr(each, name) for each in rollouts]) for name in ("frames_u8", "latents")
    }
    recalled = json.dumps([each.recalled for each in rollouts])
    save_tensors(path, tensors, {"recalled": recalled, "seconds": str(seconds)})


def read_rollouts(path: Path) -> tuple[list[Rollout], float]:
    """What `write_rollouts` wrote. FileNotFoundError, or SafetensorError if the file is torn."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        frames, latents = file.get_tensor("frames_u8"), file.get_tensor("latents")
    recalled = [tuple(map(tuple, each)) for each in json.loads(metadata["recalled"])]
    rollouts = [
        Rollout(frames_u8=shown, latents=kept, recalled=chosen)
        for shown, kept, chosen in zip(frames, latents, recalled, strict=True)
    ]
    return rollouts, float(metadata["seconds"])
