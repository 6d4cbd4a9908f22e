"""How long recall takes with so many frames in memory: its search alone, and its share of a step of play."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from worldsim.bench import StepBench, device_name, fill_memory, measure_steps
from worldsim.checkpoint import WorldModels
from worldsim.world import World

SIZES = (1_000, 10_000, 100_000)
"""frames in memory"""
QUERIES, STEPS = 50, 6
"""searches and steps timed at each size"""


def recall_latency(
    models: WorldModels, sizes: Sequence[int] = SIZES, queries: int = QUERIES, steps: int = STEPS
) -> dict[str, Any] | None:
    """Times in ms and what they were measured on; memories hold noise. Some fifteen seconds, half of them to fill memories.

    `search` is `Memory.recall` by hybrid score; `recall` and `step` are those of `worldsim bench step`, `recall` with
    what foresees the coming view and registers what was found; `share` is of their medians. None for models that
    cannot be played.
    """
    if models.schedule.coming:
        return None
    bench = StepBench(memory_frames=tuple(sizes), steps=steps, warmup=1)
    report = measure_steps(models, "benchmark", bench)
    rows = []
    for size, times_s in zip(report.sizes, search_times_s(models, sizes, queries), strict=True):
        recall, total = size.parts["recall"], size.parts["total"]
        p50_ms, p95_ms = 1e3 * np.percentile(times_s, (50, 95))
        rows.append({
            "frames": size.memory_frames, "search_p50_ms": float(p50_ms), "search_p95_ms": float(p95_ms),
            "recall_p50_ms": recall.p50_ms, "step_p50_ms": total.p50_ms, "share": recall.p50_ms / total.p50_ms,
        })  # fmt: skip
    return {
        "processor": device_name(torch.device("cpu")), "device": report.device, "threads": report.threads,
        "queries": queries, "steps": steps, "rows": rows,
    }  # fmt: skip


def search_times_s(
    models: WorldModels, sizes: Sequence[int], queries: int
) -> list[Float64[np.ndarray, " {queries}"]]:
    """Seconds of each of so many searches by hybrid score, at each size; `sizes` rise. Random views from random places."""
    world, random, schedule = World(models), np.random.default_rng(0), models.schedule
    found = []
    for size in sizes:
        fill_memory(world, size - len(world.memory), seed=size)
        times = []
        for _ in range(1 + queries):  # The first warms up.
            query = random.standard_normal(models.descriptor.dim, dtype=np.float32)
            query /= np.linalg.norm(query)
            pose = torch.from_numpy(1000 * random.random(3, dtype=np.float32)).to(models.device)
            begun = time.perf_counter()
            world.memory.recall(query, pose, schedule.recalled.frames, schedule.recent_frames)
            times.append(time.perf_counter() - begun)
        found.append(np.array(times[1:]))
    return found
