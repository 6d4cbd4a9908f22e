"""`worldsim ablate`: train and judge every variant of a suite under one budget, several devices at a time."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

import tyro
from tqdm import tqdm

from worldsim.ablation.suites import Variant, suite
from worldsim.ablation.table import write_tables
from worldsim.checkpoint import default_checkpoint
from worldsim.errors import check_at_least
from worldsim.files import write_json_atomic

PARTS = ("autoencoder", "descriptor", "odometer")
OWN_FRAMES = ("--own-frames.share", "0", "--own-frames.layout-noise", "0")
"""histories are true ones unless a variant says otherwise, as in the papers compared, and drawn plainly if own"""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Equal data, steps and parts for all variants; run it again to go on."""

    suite: tyro.conf.Positional[str]
    """paper or quick"""
    data: Path
    """folder of recorded episodes to train on"""
    held_out: Path
    """folder of recorded episodes to judge on"""
    out: Path
    """folder for runs, evaluations and the table: ablation.html, .md and .json"""
    parts: Path | None = None
    """checkpoint folder whose autoencoder, descriptor and odometer all share; the shipped one if left out"""
    only: tuple[str, ...] = ()
    """names of variants to run; all if left out"""
    steps: int = 2000
    """optimiser steps of each training"""
    train: str = "--batch 256 --loop.cooldown 0.5"
    """further flags of every `worldsim train model`; write them as --train='--batch 64'"""
    starts: int = 64
    """revisits to roll out"""
    rollouts: int = 32
    """free rollouts"""
    frames: int = 600
    """frames of each"""
    judge_steps: int = 2400
    """steps that the judge of action fidelity is trained for, each time anew and alike; 0 leaves action fidelity out"""
    clips: int = 4
    """rollouts of each to keep as videos, for `worldsim compare`"""
    preset: str = "default"
    """tiny, default or large"""
    devices: tuple[str, ...] = ("auto",)
    """one variant at a time on each: cuda:0 cuda:1 …, cpu or auto"""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "starts", "rollouts", "frames")
        check_at_least(self, 0, "judge_steps", "clips")
        if not self.devices:
            raise ValueError("no devices to train on; give --devices cuda:0, cpu or auto")

    @property
    def budget(self) -> dict[str, str]:
        """What must be the same for all variants and from run to run."""
        names = (
            "data",
            "held_out",
            "parts",
            "steps",
            "train",
            "starts",
            "rollouts",
            "frames",
            "judge_steps",
            "preset",
        )
        return {name: str(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class Step:
    """One command of a variant, and the file that shows that it is done."""

    name: str
    words: list[str]
    done: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Unless it has been run before. ChildProcessError tells the last line that it wrote."""
        if self.done.exists():
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            print("$ worldsim", *self.words, file=log, flush=True)
            code = subprocess.call(
                [sys.executable, "-m", "worldsim.cli", *self.words], stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
            )  # fmt: skip
        if code or not self.done.exists():
            lines = [
                line
                for line in re.split(r"[\r\n]+", self.log.read_text(encoding="utf-8"))
                if re.search(r"\w", line)
            ]
            told = next((line for line in reversed(lines) if line.startswith("error:")), lines[-1])
            raise ChildProcessError(f"{self.name} ended with code {code}: {told}; see {self.log}")


def run_ablation(settings: Ablation) -> None:
    """Train, judge, and write the table; a variant that fails leaves a line in it, and the others go on.

    ValueError if the folder was begun with another budget or a name is not of the suite. ChildProcessError, after all
    others are done, names the first variant that failed.
    """
    variants = chosen(settings)
    keep_budget(settings)
    # What has been judged needs no weights: reports may come from several machines.
    open_ = [each for each in variants if not all(path.exists() for path in each.reports(settings.out))]
    needed = {each.weights or each.name for each in open_}
    trained = [each for each in suite(settings.suite) if each.name in needed]
    failures: dict[str, str] = {}
    free: Queue[str] = Queue()
    for device in settings.devices:
        free.put(device)

    def work(variant: Variant, steps: Sequence[Step]) -> None:
        device = free.get()
        try:
            for step in steps:
                on_device(step, device).run()
        except ChildProcessError as error:
            failures.setdefault(variant.name, str(error))
        finally:
            free.put(device)

    with tqdm(total=len(trained) + len(open_), desc="ablation", unit="run") as progress:
        spread(work, [(each, training_steps(each, settings)) for each in trained], settings, progress)
        spread(work, [(each, judging_steps(each, settings)) for each in open_], settings, progress)
        write_tables(settings.out, variants, settings.budget, failures)
    print(f"the table is in {settings.out / 'ablation.html'}, .md and .json", flush=True)
    if failures:
        name, line = next(iter(failures.items()))
        raise ChildProcessError(f"{len(failures)} of {len(variants)} variants failed, first {name!r}: {line}")


def chosen(settings: Ablation) -> list[Variant]:
    """The variants asked for."""
    known = {each.name: each for each in suite(settings.suite)}
    unknown = [name for name in settings.only if name not in known]
    if unknown:
        raise ValueError(
            f"variant {unknown[0]!r} is not of suite {settings.suite!r}; it has {', '.join(known)}"
        )
    return [each for name, each in known.items() if name in (settings.only or known)]


def keep_budget(settings: Ablation) -> None:
    """Write what all variants share, or see that it is what the folder was begun with."""
    path = settings.out / "budget.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name, value in settings.budget.items() if before.get(name) != value]
        if other:
            raise ValueError(
                f"{settings.out} was begun with {other[0]} {before.get(other[0])!r}, not "
                f"{settings.budget[other[0]]!r}: variants would not be comparable; use another --out"
            )
    write_json_atomic(path, settings.budget)


def spread(
    work: Callable[[Variant, Sequence[Step]], None],
    jobs: Sequence[tuple[Variant, Sequence[Step]]],
    settings: Ablation,
    progress: tqdm,
) -> None:
    """Jobs over the devices, one each at a time."""
    with ThreadPoolExecutor(len(settings.devices)) as pool:
        for future in as_completed([pool.submit(work, *job) for job in jobs]):
            future.result()
            progress.update()


def on_device(step: Step, device: str) -> Step:
    """The step with its device; a numbered GPU is the only one that it sees."""
    kind, _, number = device.partition(":")
    environment = {"CUDA_VISIBLE_DEVICES": number} if number else {}
    return Step(step.name, [*step.words, "--device", kind], step.done, step.log, environment)


def training_steps(variant: Variant, settings: Ablation) -> list[Step]:
    """Its one command, in a run folder with the parts that all share."""
    run = variant.run(settings.out)
    source = settings.parts or default_checkpoint()
    for part in PARTS:
        if not (run / "checkpoint" / part).exists():
            shutil.copytree(source / part, run / "checkpoint" / part)
    latents = settings.out / "latents"
    latents.mkdir(parents=True, exist_ok=True)
    if not (run / "latents").exists():
        (run / "latents").symlink_to(os.path.relpath(latents, run), target_is_directory=True)
    words = [
        "train", "model", "--data", str(settings.data), "--out", str(run), "--preset", settings.preset,
        "--loop.steps", str(settings.steps), *OWN_FRAMES, *settings.train.split(), *variant.train,
    ]  # fmt: skip
    return [
        Step(
            f"training of {variant.name!r}",
            words,
            run / "checkpoint" / "world.json",
            run.parent / "train.log",
        )
    ]


def judging_steps(variant: Variant, settings: Ablation) -> list[Step]:
    """Drift, revisits and the time of a step."""
    folder, checkpoint = variant.folder(settings.out), variant.run(settings.out) / "checkpoint"
    common = ["--checkpoint", str(checkpoint), "--data", str(settings.held_out), *variant.play]
    common += ["--guidance", str(variant.guidance), "--layout-noise", str(variant.layout_noise)]
    drift = [
        "evaluate", "drift", *common, "--out", str(folder / "drift"), "--rollouts", str(settings.rollouts),
        "--frames", str(settings.frames), "--memory-mode", variant.memory, "--clips", str(settings.clips),
        "--judge-steps", str(settings.judge_steps),
    ]  # fmt: skip
    modes = ["off"] if variant.memory == "off" else ["off", variant.memory]
    revisits = [
        "evaluate", "revisits", *common, "--out", str(folder / "revisits"), "--starts", str(settings.starts),
        "--controls", "0", "--recent", "22", "--strips", "1", "--modes", *modes,
    ]  # fmt: skip
    names, done, log = ("drift", "revisits"), variant.reports(settings.out), folder / "judge.log"
    return [
        Step(f"{name} of {variant.name!r}", words, path, log)
        for name, words, path in zip(names, (drift, revisits), done, strict=True)
    ]
