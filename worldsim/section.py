"""What one input step makes, and how long its parts take."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from worldsim.memory import Recalled


@dataclass(frozen=True)
class Section:
    """What one input step made."""

    frames_u8: UInt8[np.ndarray, "section frame_height frame_width 3"]
    latents: Float[Tensor, "section channel height width"]
    recalled: tuple[Recalled, ...]
    timings_s: dict[str, float]
    """seconds spent on recall, pack, history, denoise, decode and append, for the whole batch of worlds"""


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
