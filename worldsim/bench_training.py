"""`worldsim bench train`: what a packed context saves in training, against the same history frames unpacked."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from models.flow import draw_sigmas, noisy_and_velocity
from models.history import AgedFrames, History
from models.schedule import Part, Schedule
from models.transformer import TransformerSettings, WorldTransformer
from worldsim.device import choose_device
from worldsim.errors import check_at_least
from worldsim.evaluation.reports import markdown_table
from worldsim.files import write_json_atomic
from worldsim.presets import preset
from worldsim.training.optimizers import make_optimizers

CLOSE = 0.03
"""the largest batch is found to this share of it"""


def billion() -> TransformerSettings:
    """A transformer of 1.2 billion parameters on latents of 480p video (832 × 480, 8 times smaller along each side)."""
    return TransformerSettings(
        latent_height=60, latent_width=104, width=2048, layers=22, heads=16, mlp_ratio=4, action_width=128,
        world_heads=8,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingBench:
    """What to train for a few steps, on random latents and weights."""

    size: Literal["tiny", "default", "large", "480p"] = "default"
    """a preset, or a billion parameters on latents of 480p video"""
    packed: str = "td_f16k4f2k2f1k1_g1"
    """schedule of the packed context"""
    unpacked: str = "td_f19k1_g1"
    """schedule of the same frames at full resolution"""
    device: str = "auto"
    """auto, cpu or cuda; only CUDA devices tell memory, elsewhere the largest batch is the one allowed"""
    most: int = 8192
    """largest batch to try"""
    steps: int = 5
    """timed steps at the largest batch"""
    out: Path | None = None
    """JSON file to write the figures to"""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "most", "steps")
        frames = [Schedule.parse(text).recent_frames for text in (self.packed, self.unpacked)]
        if frames[0] != frames[1]:
            raise ValueError(
                f"schedules {self.packed!r} and {self.unpacked!r} reach {frames[0]} and {frames[1]} frames; "
                "compare equal ones"
            )

    @property
    def transformer(self) -> TransformerSettings:
        return billion() if self.size == "480p" else preset(self.size).transformer


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What training costs on one device with one schedule."""

    schedule: str
    tokens: int
    """of the context and the section"""
    parameters: int
    largest_batch: int
    peak_gb: float
    """at that batch; 0 where the device does not tell"""
    samples_per_s: float


def bench_training(settings: TrainingBench) -> None:
    """Find the largest batch of either schedule, time it, and print both side by side.

    ValueError where not even one sample fits.
    """
    device = choose_device(settings.device)
    costs = [cost_of(text, settings, device) for text in (settings.packed, settings.unpacked)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"size {settings.size}, {costs[0].parameters / 1e6:.1f} M parameters, on one {name}\n\n{table(costs)}"
    )
    if settings.out is not None:
        write_json_atomic(
            settings.out, {"device": name, "packed": asdict(costs[0]), "unpacked": asdict(costs[1])}
        )


def table(costs: Sequence[TrainingCost]) -> str:
    """Packed, unpacked, and how many times better packed is."""
    packed, unpacked = costs
    rows = [
        ("tokens", str(packed.tokens), str(unpacked.tokens), unpacked.tokens / packed.tokens),
        ("largest batch", str(packed.largest_batch), str(unpacked.largest_batch),
         packed.largest_batch / unpacked.largest_batch),
        ("peak memory, GiB", f"{packed.peak_gb:.1f}", f"{unpacked.peak_gb:.1f}", None),
        ("samples/s", f"{packed.samples_per_s:.1f}", f"{unpacked.samples_per_s:.1f}",
         packed.samples_per_s / unpacked.samples_per_s),
        ("largest batch on 8 such devices", str(8 * packed.largest_batch), str(8 * unpacked.largest_batch), None),
    ]  # fmt: skip
    header = ("", packed.schedule, unpacked.schedule, "times")
    return markdown_table(header, [(*row, "" if gain is None else f"{gain:.2f}") for *row, gain in rows])


def cost_of(text: str, settings: TrainingBench, device: torch.device) -> TrainingCost:
    """One schedule's."""
    sizes = replace(settings.transformer, schedule=text)
    schedule = Schedule.parse(text)
    with device:  # a billion weights are drawn where they are needed
        model = WorldTransformer.of(sizes)
    step = training_step(model, sizes, device)
    with tqdm(desc=f"batches of {text}", unit="try") as progress:
        largest = largest_batch(lambda batch: fits(step, batch, device), settings.most, progress)
    if not largest:
        raise ValueError(f"not one sample of schedule {text!r} at size {settings.size!r} fits on {device}")
    largest, seconds = timed(step, largest, settings.steps, device)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    section = schedule.section * model.rows * model.cols
    return TrainingCost(
        schedule=text,
        tokens=schedule.tokens(sizes.latent_height, sizes.latent_width) + section,
        parameters=sum(each.numel() for each in model.parameters()),
        largest_batch=largest,
        peak_gb=peak,
        samples_per_s=largest / seconds,
    )


def timed(step: Callable[[int], None], batch: int, steps: int, device: torch.device) -> tuple[int, float]:
    """Seconds of a step with that batch, or with the next smaller one that fits as often as it is repeated.

    Near the limit, what memory has been cut into decides: a batch that fitted once need not fit again.
    """
    while True:
        _forget(device)
        try:
            step(batch)
            _wait(device)
            begun = time.perf_counter()
            for _ in range(steps):
                step(batch)
            _wait(device)
            return batch, (time.perf_counter() - begun) / steps
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch = max(1, min(batch - 1, int((1 - CLOSE) * batch)))


def largest_batch(fits_in: Callable[[int], bool], most: int, progress: tqdm | None = None) -> int:
    """The largest number from 1 to `most` that fits, to CLOSE of it, where all smaller ones do; 0 if none."""

    def asked(batch: int) -> bool:
        if progress is not None:
            progress.set_postfix(batch=batch)
            progress.update()
        return fits_in(batch)

    low, high = 0, 1
    while high <= most and asked(high):
        low, high = high, 2 * high
    if low and high > most:
        if low == most or asked(most):
            return most
        high = most
    while high - low > max(1, int(CLOSE * low)):
        middle = (low + high) // 2
        low, high = (middle, high) if asked(middle) else (low, middle)
    return low


def fits(step: Callable[[int], None], batch: int, device: torch.device) -> bool:
    """Whether two steps with that batch end; what they took is given back."""
    try:
        step(batch)
        step(batch)
        _wait(device)
    except torch.OutOfMemoryError:
        return False
    finally:
        _forget(device)
    return True


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def training_step(
    model: WorldTransformer, sizes: TransformerSettings, device: torch.device
) -> Callable[[int], None]:
    """A step as training takes it, one noise draw a history, on latents made up anew for every batch size."""
    optimizers = make_optimizers(model, 1e-4, 0.0)
    generator = torch.Generator(device).manual_seed(0)

    def step(batch: int) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        history = random_history(model.schedule, sizes, batch, device)
        shape = (
            batch,
            model.schedule.section,
            sizes.latent_channels,
            sizes.latent_height,
            sizes.latent_width,
        )
        coming = torch.randn(shape, device=device, generator=generator)
        sigma = draw_sigmas(batch, 1, 2.0, generator)
        noise = torch.randn((batch, 1, *shape[1:]), device=device, generator=generator)
        noisy, velocity = noisy_and_velocity(coming, sigma, noise)
        actions = _actions(batch, model.schedule.recent_frames + model.schedule.section, sizes, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = (model(history, noisy, sigma, actions).float() - velocity).square().mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def _actions(
    batch: int, count: int, sizes: TransformerSettings, device: torch.device
) -> Int[Tensor, "batch {count} factor"]:
    return torch.zeros(batch, count, len(sizes.action_sizes), dtype=torch.int64, device=device)


def random_history(
    schedule: Schedule, sizes: TransformerSettings, batch: int, device: torch.device
) -> History:
    """A full history of random latents, as long as the schedule reaches; its tail left out."""

    def frames(count: int) -> AgedFrames:
        shape = (batch, count, sizes.latent_channels, sizes.latent_height, sizes.latent_width)
        return AgedFrames(
            latents=torch.randn(shape, device=device),
            present=torch.ones(batch, count, dtype=torch.bool, device=device),
            ages=torch.ones(batch, count, dtype=torch.int64, device=device),
            poses=torch.zeros(batch, count, 3, device=device),
        )

    def part(name: Part) -> AgedFrames:
        return frames(schedule.frames(name))

    recent, coming = part("recent"), part("coming")
    return History(
        recent=recent.latents, recent_present=recent.present,
        recent_actions=_actions(batch, recent.ages.shape[1], sizes, device), recent_poses=recent.poses,
        recalled=part("recalled"), first=part("first"), ranked=part("ranked"), tail=frames(0),
        coming=coming, coming_actions=_actions(batch, coming.ages.shape[1], sizes, device), last=part("last"),
        gap=torch.zeros(batch, dtype=torch.int64, device=device),
        section_poses=torch.zeros(batch, schedule.section, 3, device=device),
        sigma=torch.zeros(batch, device=device),
    )  # fmt: skip
