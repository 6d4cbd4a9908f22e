"""The interface by which any world model enters the benchmark: true history in, then a frame for every action."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from tqdm import tqdm

from worldsim.checkpoint import WorldModels
from worldsim.evaluation.held_out import HeldOut, encode
from worldsim.evaluation.lpips import Lpips
from worldsim.evaluation.rollouts import compare, noise_seed
from worldsim.evaluation.shared_rows import shared_rows
from worldsim.evaluation.starts import Start
from worldsim.world import World, WorldSettings

FrameU8 = UInt8[np.ndarray, "height width 3"]
FramesU8 = UInt8[np.ndarray, "time height width 3"]


@runtime_checkable
class Contestant(Protocol):
    """A world model. It sees frames and actions alone: no pose, no map, no depth."""

    def reset(self, frames_u8: FramesU8, actions: Int64[np.ndarray, "time factor"], seed: int) -> None:
        """Begin where these true frames end; actions[t] led to frame t. `seed` is of what it draws at random."""

    def step(self, action: Int64[np.ndarray, "factor"]) -> FrameU8:
        """The frame that this action leads to, as it looks to a player."""


class CopyLast:
    """The last frame it was shown, whatever the action: the least that a model must beat."""

    def reset(self, frames_u8: FramesU8, actions: Int64[np.ndarray, "time factor"], seed: int) -> None:
        self._last = frames_u8[-1]

    def step(self, action: Int64[np.ndarray, "factor"]) -> FrameU8:
        return self._last


class WorldContestant:
    """Our own world, one at a time: slower than the benchmark's batches, and the same frames."""

    def __init__(self, models: WorldModels, settings: WorldSettings) -> None:
        if models.schedule.section != 1:
            raise ValueError(
                f"the model makes sections of {models.schedule.section} frames; a contestant answers every action with one"
            )
        self.models, self.settings = models, settings

    def reset(self, frames_u8: FramesU8, actions: Int64[np.ndarray, "time factor"], seed: int) -> None:
        self._world = World(self.models, self.settings, seed=seed)
        latents = encode(self.models.autoencoder, torch.from_numpy(frames_u8))
        self._world.observe(latents, torch.from_numpy(actions))

    def step(self, action: Int64[np.ndarray, "factor"]) -> FrameU8:
        return self._world.step(action[None]).frames_u8[0]


def load_contestant(name: str) -> Contestant:
    """What `module:factory` makes, called without arguments. ValueError, one line, if that is no contestant."""
    module_name, _, factory_name = name.partition(":")
    try:
        factory: Callable[[], Any] = getattr(import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"contestant {name!r} cannot be had ({error}); name one as module:factory") from None
    made = factory()
    missing = [each for each in ("reset", "step") if not callable(getattr(made, each, None))]
    if missing:
        raise ValueError(
            f"contestant {name!r} has no method {' and no '.join(missing)}; see worldsim.benchmark.contestant"
        )
    contestant: Contestant = made
    return contestant


def load_contestants(names: Sequence[str], taken: Sequence[str]) -> dict[str, Contestant]:
    """Contestants under the names of their factories. ValueError for a name that stands twice, or is `taken`."""
    loaded: dict[str, Contestant] = {}
    for name in names:
        label = name.partition(":")[2]
        if label in loaded or label in taken:
            raise ValueError(
                f"contestant {name!r}: a row {label!r} is there already; give its factory another name"
            )
        loaded[label] = load_contestant(name)
    return loaded


def checked_frame(name: str, frame: object, shape: tuple[int, ...]) -> FrameU8:
    """The frame, if it is one. ValueError naming the contestant and what it gave instead."""
    if not isinstance(frame, np.ndarray):
        raise ValueError(
            f"contestant {name!r} gave a {type(frame).__name__}; a step gives a numpy array {shape}, uint8"
        )
    if np.issubdtype(frame.dtype, np.floating) and not np.isfinite(frame).all():
        raise ValueError(
            f"contestant {name!r} gave values that are not numbers; a step gives uint8 within 0..255"
        )
    if frame.dtype != np.uint8 or frame.shape != shape:
        raise ValueError(
            f"contestant {name!r} gave {frame.dtype} of shape {frame.shape}; a step gives uint8 of shape {shape}"
        )
    return frame


def run_contestant(
    name: str,
    contestant: Contestant,
    held_out: HeldOut,
    starts: Sequence[Start],
    horizon: int,
    folder: Path,
    seeds: Sequence[int],
    device: torch.device,
    lpips: Lpips | None = None,
) -> list[dict[str, Any]]:
    """One row a seed and start, as `worldsim evaluate revisits` makes of a memory mode. Those in `folder` are read:
    a contestant that has changed needs another one.

    Raises:
        ValueError: it gave something else than a frame; the starts before it are kept.
    """
    asked = list(product(seeds, starts))
    paths = [
        folder / f"{_plain(name)}-{seed}-{start.episode:04d}-{start.step:05d}.jsonl" for seed, start in asked
    ]
    progress = tqdm(total=len(asked), desc=name, unit="start")

    def make(number: int) -> list[dict[str, Any]]:
        seed, start = asked[number]
        stop = start.step + horizon
        truth = held_out.read(start.episode, np.arange(stop))
        actions = held_out.actions[start.episode]
        draw = noise_seed(seed, start.episode, start.step)
        contestant.reset(truth[: start.step].numpy(), actions[: start.step], draw)
        made = [
            checked_frame(name, contestant.step(action), tuple(truth.shape[1:]))
            for action in actions[start.step : stop]
        ]
        figures = compare(torch.from_numpy(np.stack(made)), truth[start.step :], device, lpips)
        row = {**asdict(start), "mode": name} | {
            each: values.round(7).tolist() for each, values in figures.items()
        }
        progress.update()
        return [row]

    with progress:
        return shared_rows(paths, make, lambda _: progress.update())


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
