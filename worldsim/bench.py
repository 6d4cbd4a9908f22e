"""`worldsim bench step`: how long one input step takes, part by part, with little and with much in memory."""

import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn
from tqdm import trange

from retrieval.place import PLACE_COLUMNS
from retrieval.whereabouts import Followed
from worldsim.action_space import ActionFactor, ActionSpace
from worldsim.build import build_models
from worldsim.checkpoint import COMPONENTS, WorldModels, default_checkpoint, load_checkpoint
from worldsim.device import choose_device, choose_dtype
from worldsim.files import write_json_atomic
from worldsim.presets import Preset, preset
from worldsim.threads import usable_cores
from worldsim.world import World, WorldSettings

PARTS: Final = ("recall", "pack", "history", "denoise", "decode", "append")
"""Parts of a step, in the order they are done; `total` is the whole call, what lies between them included."""
_CHUNK: Final = 1000


@dataclass(frozen=True, kw_only=True)
class StepBench:
    """What to time. Worlds of each memory size take their steps in turns, so that drift of the machine cancels."""

    checkpoint: Path | None = None
    """checkpoint folder; None takes the shipped one, or the default preset where none is shipped"""
    preset: str | None = None
    """time random weights of this preset instead: tiny, default or large"""
    device: str = "auto"
    """auto, cpu or cuda"""
    threads: int | None = None
    """CPU threads that torch may use; None takes as many as play does: all cores but one, and both of two"""
    steps: int = 60
    """timed steps of each world"""
    warmup: int = 5
    """steps of each world before the clock counts"""
    memory_frames: tuple[int, ...] = (200, 20_000)
    """frames in memory when the first step begins, one world for each number"""
    denoising_steps: int | None = None
    """Euler steps a section; None takes the checkpoint's"""
    guidance: float | None = None
    """weight of history guidance; None takes the checkpoint's"""
    out: Path | None = None
    """JSON file to write the figures to"""

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.preset is not None:
            raise ValueError(
                f"checkpoint {self.checkpoint} and preset {self.preset!r} are both given; give one"
            )
        if self.steps < 1 or self.warmup < 0:
            raise ValueError(f"{self.steps} steps after {self.warmup} of warm-up; time at least 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"{self.threads} threads; give at least 1")
        if not self.memory_frames or min(self.memory_frames) < 1:
            raise ValueError(f"memory frames {self.memory_frames} are not one or more numbers of at least 1")


@dataclass(frozen=True, kw_only=True)
class PartTime:
    """One part of the step, over all timed steps."""

    p50_ms: float
    p95_ms: float
    share: float
    """of the time of whole steps"""


@dataclass(frozen=True, kw_only=True)
class MemorySize:
    """A world that began with so many frames in memory."""

    memory_frames: int
    parts: dict[str, PartTime]
    """by name: those of `PARTS`, then `total`"""
    frames_per_s: float
    """frames of a section over the median step"""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What was measured, and on what."""

    model: str
    parameters: int
    device: str
    cores: int
    """cores that this process may run on"""
    threads: int
    """threads that torch was allowed"""
    cores_busy: float
    """CPU seconds over seconds while timed: how many cores were really at work"""
    dtype: str
    sampler: str
    """how sections were drawn"""
    steps: int
    sizes: tuple[MemorySize, ...]
    total_ratio: float
    """median step with the largest memory over that with the smallest"""
    peak_bytes: int
    """largest memory so far, all worlds together: of the process on a CPU, of tensors on a GPU"""
    bytes_a_frame: int
    """what one more frame in memory takes"""

    def markdown(self) -> str:
        """The figures for reading; every one says what it was measured on."""
        lines = [
            f"{self.model}, {self.parameters / 1e6:.1f} M parameters, {self.dtype}, {self.sampler}",
            f"{self.device}: {self.cores} cores, {self.threads} threads, {self.cores_busy:.1f} cores busy; "
            f"{self.steps} steps of each world",
        ]
        for size in self.sizes:
            lines += [
                "",
                f"**{size.memory_frames:,} frames in memory: {size.frames_per_s:.1f} frames/s**",
                "",
            ]
            lines += ["| part | p50 ms | p95 ms | share |", "|---|---:|---:|---:|"]
            lines += [
                f"| {name} | {part.p50_ms:.1f} | {part.p95_ms:.1f} | {part.share:.0%} |"
                for name, part in size.parts.items()
            ]
        frames = [size.memory_frames for size in self.sizes]
        lines += [
            "",
            f"median step with {max(frames):,} frames / with {min(frames):,}: {self.total_ratio:.2f}",
            f"peak memory: {self.peak_bytes / 2**20:,.0f} MiB; one frame in memory: {self.bytes_a_frame:,} bytes",
        ]
        return "\n".join(lines)


def bench_step(settings: StepBench) -> None:
    """Time steps, print the tables, and write them as JSON if `settings.out` names a file."""
    with limited_threads(settings.threads):
        models, name = bench_models(settings)
        report = measure_steps(models, name, settings)
    print(report.markdown())
    if settings.out is not None:
        write_json_atomic(settings.out, {"settings": _plain(settings), **asdict(report)})


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Let torch use that many CPU threads (None: as before) within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bench_models(settings: StepBench) -> tuple[WorldModels, str]:
    """The models to time, and what to call them."""
    device = choose_device(settings.device)
    shipped = default_checkpoint()
    folder = settings.checkpoint or (shipped if shipped.is_dir() else None)
    if settings.preset is None and folder is not None:
        name = "shipped checkpoint" if folder == shipped else f"checkpoint {folder.name}"
        return load_checkpoint(folder, settings.device), name
    sizes = preset(settings.preset or "default")
    models = build_models(sizes, _any_actions(sizes))
    for component in COMPONENTS:
        # Not the component's own `to`: diffusers' advice about dtypes does not concern users of this package.
        nn.Module.to(getattr(models, component), device, choose_dtype(device))
    return models, f"preset {settings.preset or 'default'}, random weights"


def _any_actions(sizes: Preset) -> ActionSpace:
    """An action space of the preset's sizes; what its actions mean takes no time."""
    return ActionSpace(
        tuple(
            ActionFactor(name=f"factor{i}", choices=tuple(map(str, range(size))), keys=((),) * (size - 1))
            for i, size in enumerate(sizes.transformer.action_sizes)
        )
    )


def fill_memory(world: World, frames: int, seed: int = 0) -> None:
    """Append frames of noise with random unit keys from all over a map: an index is as slow for them as for real ones."""
    generator, random = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    config, dim = world.models.transformer.config, world.models.descriptor.dim
    shape = (config.latent_channels, config.latent_height, config.latent_width)
    scanned = (world.models.odometer.config.witness_channels, config.latent_width)
    for start in range(0, frames, _CHUNK):
        count = min(_CHUNK, frames - start)
        keys = random.standard_normal((count, dim), dtype=np.float32)
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        actions = torch.zeros(count, len(config.action_sizes), dtype=torch.int64)
        latents = torch.randn(count, *shape, generator=generator)
        path = Followed.of_poses(1000 * torch.rand(1, count, 3, generator=generator))
        scans = torch.randn(count, *scanned, generator=generator)
        world.memory.append(latents.to(world.models.device), actions, path, keys, scans=scans)


def measure_steps(models: WorldModels, name: str, settings: StepBench) -> StepReport:
    """Time the steps of one world a memory size, A B A B …, with the first action held."""
    played = WorldSettings(denoising_steps=settings.denoising_steps, guidance=settings.guidance)
    worlds = [World(models, played, seed=i) for i in range(len(settings.memory_frames))]
    for world, frames in zip(worlds, settings.memory_frames, strict=True):
        fill_memory(world, frames)
    if models.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(models.device)
    actions = np.zeros((worlds[0].section_length, len(models.action_space.factors)), np.int64)
    actions[:, 0] = 1
    times = np.zeros((len(worlds), settings.steps, len(PARTS) + 1))
    for _ in range(settings.warmup):
        for world in worlds:
            world.step(actions)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    for step in trange(settings.steps, desc="bench", unit=" steps", disable=not sys.stderr.isatty()):
        for row, world in zip(times, worlds, strict=True):
            start = time.perf_counter()
            section = world.step(actions)
            row[step] = [*(section.timings_s[part] for part in PARTS), time.perf_counter() - start]
    busy = (time.process_time() - begun_cpu) / (time.perf_counter() - begun)
    sizes = tuple(
        _memory_size(frames, row, worlds[0].section_length)
        for frames, row in zip(settings.memory_frames, times, strict=True)
    )
    parts = [parameter for component in COMPONENTS for parameter in getattr(models, component).parameters()]
    return StepReport(
        model=name,
        parameters=sum(parameter.numel() for parameter in parts),
        device=device_name(models.device),
        cores=usable_cores() or os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        cores_busy=round(busy, 2),
        dtype=str(models.dtype).removeprefix("torch."),
        sampler=worlds[0].maker.flow.text,
        steps=settings.steps,
        sizes=sizes,
        total_ratio=total_ratio(sizes),
        peak_bytes=_peak_bytes(models.device),
        bytes_a_frame=_bytes_a_frame(worlds[0]),
    )


def _memory_size(frames: int, seconds: Float64[np.ndarray, "step part"], section: int) -> MemorySize:
    p50, p95 = np.percentile(seconds, (50, 95), axis=0)
    share = seconds.sum(0) / seconds[:, -1].sum()
    return MemorySize(
        memory_frames=frames,
        parts={
            name: PartTime(p50_ms=1e3 * float(p50[i]), p95_ms=1e3 * float(p95[i]), share=float(share[i]))
            for i, name in enumerate((*PARTS, "total"))
        },
        frames_per_s=section / float(p50[-1]),
    )


def total_ratio(sizes: Sequence[MemorySize]) -> float:
    """Median step with the largest memory over that with the smallest."""
    ordered = sorted(sizes, key=lambda size: size.memory_frames)
    return ordered[-1].parts["total"].p50_ms / ordered[0].parts["total"].p50_ms


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "CPU"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _bytes_a_frame(world: World) -> int:
    """Latent, action and pose; in the index a float32 key with its columns of place and time, and an int64 time."""
    latents, actions, poses, _ = world.memory.recent(1)
    columns = world.models.descriptor.dim + PLACE_COLUMNS + 1
    return latents.nbytes + actions.nbytes + poses.nbytes + 4 * columns + 8


def _plain(settings: StepBench) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()
    }
