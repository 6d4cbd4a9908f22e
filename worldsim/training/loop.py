"""The training loop that all three trainings share: progress, time limit, saving, resuming, stopping at NaN."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from worldsim.errors import check_at_least
from worldsim.training.processes import Processes
from worldsim.training.state import TrainingState


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long to train and what to keep on the way."""

    steps: int = 10_000
    """optimiser steps in all, earlier runs included"""
    total_minutes: float | None = None
    """minutes in all, earlier runs included, where that is what is scarce: training ends, and the learning rate has
    fallen, when steps or minutes are used up; only a training planned by steps alone repeats itself exactly. Looked at
    every `log_steps` steps"""
    max_minutes: float | None = None
    """stop this run after so many minutes, state saved; the next run goes on. Looked at every `log_steps` steps"""
    warmup_steps: int = 200
    """steps over which the learning rate rises to its height"""
    cooldown: float = 0.2
    """share of the training, at its end, over which the learning rate falls; short trainings gain by a larger one"""
    save_minutes: float = 3.0
    """minutes between saved states"""
    log_steps: int = 48
    """steps between log lines; a loss that is not finite is found then"""
    preview_steps: int = 2000
    """steps between previews (film strips in TensorBoard)"""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "warmup_steps", "log_steps", "preview_steps")
        for name in ("total_minutes", "max_minutes"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not above 0; leave it out for no limit")
        if not 0 < self.cooldown <= 1:
            raise ValueError(f"cooldown {self.cooldown} is no share above 0 and up to 1, e.g. 0.2")


def learning_rate_factor(step: int, minutes: float, settings: LoopSettings) -> float:
    """Warm up, hold, and fall linearly to 2 % over the cooldown (warmup–stable–decay, Hu et al. 2024)."""
    warmup = min(1.0, (step + 1) / settings.warmup_steps)
    left = 1 - step / settings.steps
    if settings.total_minutes is not None:
        left = min(left, 1 - minutes / settings.total_minutes)
    return warmup * min(1.0, max(0.02, left / settings.cooldown))


@contextmanager
def interruption(processes: Processes) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that a step is never left half-taken; the second one interrupts at once.

    Among several processes Ctrl-C interrupts as ever, for they could not agree on the step to stop at.
    """
    event = threading.Event()
    if processes.count > 1 or threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def first(number: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


class TrainingLoop:
    """Runs `take_step(step) -> metrics` until the steps or the minutes are used up."""

    def __init__(
        self, name: str, run: Path, state: TrainingState, settings: LoopSettings, processes: Processes
    ) -> None:
        self.name, self.run, self.state, self.settings, self.processes = name, run, state, settings, processes
        self.path = run / "state" / f"{name}.safetensors"
        self._base = [group["lr"] for optimizer in state.optimizers for group in optimizer.param_groups]
        if self.path.is_file():
            state.load(self.path)
            if processes.main:
                print(f"{name}: resumed at step {state.step} from {self.path}", flush=True)
        self.writer = SummaryWriter(str(run / "tensorboard" / name)) if processes.main else None

    def set_learning_rate(self) -> None:
        factor = learning_rate_factor(self.state.step, self.state.minutes, self.settings)
        groups = [group for optimizer in self.state.optimizers for group in optimizer.param_groups]
        for group, base in zip(groups, self._base, strict=True):
            group["lr"] = base * factor

    def train(
        self,
        take_step: Callable[[int], dict[str, Tensor]],
        preview: Callable[[SummaryWriter | None, int], None] | None = None,
    ) -> None:
        """Train to the end. ValueError at the first loss that is not finite; the last good state stays on disk.

        Ctrl-C ends a training in one process after its step, state saved, with KeyboardInterrupt.
        """
        settings, state = self.settings, self.state
        begun, saved_minutes = time.monotonic(), 0.0
        minutes_before = state.minutes
        values: dict[str, list[Tensor]] = {}
        bar = tqdm(
            total=settings.steps, initial=state.step, desc=self.name, unit="step",
            disable=not self.processes.main, mininterval=5.0, dynamic_ncols=True,
        )  # fmt: skip
        with bar, interruption(self.processes) as interrupted:
            while state.step < settings.steps:
                self.set_learning_rate()
                for key, value in take_step(state.step).items():
                    values.setdefault(key, []).append(value)
                state.step += 1
                bar.update()
                stop = interrupted.is_set()
                if stop or state.step % settings.log_steps == 0 or state.step == settings.steps:
                    run_minutes = self.processes.agreed((time.monotonic() - begun) / 60)
                    state.minutes = minutes_before + run_minutes
                    self._log(values, bar)
                    values = {}
                    if stop or run_minutes > (settings.max_minutes or float("inf")):
                        break
                    if state.minutes > (settings.total_minutes or float("inf")):
                        break
                    if run_minutes - saved_minutes > settings.save_minutes:
                        state.save(self.path, self.processes.main)
                        saved_minutes = run_minutes
                if preview and state.step % settings.preview_steps == 0:
                    preview(self.writer, state.step)
        state.save(self.path, self.processes.main)
        if interrupted.is_set():
            print(f"{self.name}: step {state.step} is saved; the same command goes on", file=sys.stderr)
            raise KeyboardInterrupt
        self.processes.barrier()

    def _log(self, values: dict[str, list[Tensor]], bar: tqdm) -> None:
        names = sorted(values)
        own = torch.stack([torch.stack(values[name]).detach().float().mean() for name in names])
        means = dict(zip(names, self.processes.mean(own).tolist(), strict=True))
        for name, value in means.items():
            if not math.isfinite(value):
                kept = self.path if self.path.is_file() else "nothing yet"
                raise ValueError(
                    f"{self.name}: {name} is {value} near step {self.state.step}; the last good state is kept "
                    f"({kept}); lower the learning rate and run the same command again"
                )
        if self.writer:
            for name, value in means.items():
                self.writer.add_scalar(name, value, self.state.step)
            bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()}, refresh=False)
            if self.state.step % (10 * self.settings.log_steps) == 0:
                shown = " ".join(f"{name} {value:.4f}" for name, value in means.items())
                tqdm.write(f"{self.name} step {self.state.step} minutes {self.state.minutes:.2f} {shown}")
