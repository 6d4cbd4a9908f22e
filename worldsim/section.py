"""What one input step makes, and how long its parts take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from worldsim.recall import Recalled
from worldsim.section_maker import SectionMaker


@dataclass(frozen=True)
class Section:
    """What one input step made."""

    frames_u8: UInt8[np.ndarray, "section frame_height frame_width 3"]
    latents: Float[Tensor, "section channel height width"]
    recalled: tuple[Recalled, ...]
    timings_s: dict[str, float]
    """seconds spent on recall, pack, history, denoise, decode and append, for the whole batch of worlds"""


def shown(
    maker: SectionMaker,
    latents: Float[Tensor, "batch section channel height width"],
    recalled: Sequence[Sequence[Recalled]] | None = None,
    timings_s: dict[str, float] | None = None,
) -> list[Section]:
    """What every world shows of its new latents; `recalled` None: nothing was."""
    with torch.no_grad():
        frames = maker.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2]).cpu().numpy()
    return [
        Section(
            frames_u8=frames[i],
            latents=latents[i],
            recalled=() if recalled is None else tuple(recalled[i]),
            timings_s={} if timings_s is None else timings_s,
        )
        for i in range(len(latents))
    ]


class Clock:
    """Laps of one step; waits for the device, or time would be charged to whoever waits first."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._last = device, time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now
