"""Where the tokens of a pack stand in time: rotary phases of every level of a schedule."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.kernel import Kernel
from models.patchifier import TAIL_CELLS
from models.rotary import kernel_phases
from models.schedule import PACKED, Part, Schedule


def packed_phases(
    schedule: Schedule, height: int, width: int, head_dim: int
) -> tuple[Float[Tensor, "token half"], Float[Tensor, "token half"]]:
    """Cosines and sines of all levels, in the order of their tokens, for latents of `height` × `width` cells."""
    parts = []
    for part in PACKED:
        times = _times(schedule, part)
        for level in schedule.levels(part):
            parts.append(kernel_phases(times[: level.frames], height, width, head_dim, level.kernel))
            times = times[level.frames :]
    return torch.cat([cos for cos, _ in parts]), torch.cat([sin for _, sin in parts])


def _times(schedule: Schedule, part: Part) -> Float[Tensor, " frame"]:
    """Rotary times of a part's frames; the section's own frames stand at 0 and on.

    Those next to the section count from it. The others take slots behind them, told by their ages and not by their places:
    beyond the recent past recalled frames, the best nearest, then the first ones, then ranked ones, the best nearest again.
    """
    beyond = -(schedule.recent_frames + 2.0)
    first = beyond - 2.0 * schedule.recalled.frames - schedule.first_frames
    count = schedule.frames(part)
    numbers = torch.arange(count, dtype=torch.float32)
    match part:
        case "recent":
            return numbers - count
        case "recalled":
            return beyond - 2 * numbers
        case "first":
            return first + numbers
        case "ranked":
            return first - 2 * (count - numbers)
        case "coming":
            return schedule.section + numbers
    return schedule.section + schedule.frames("coming") + 1 + numbers


def tail_phases(
    schedule: Schedule, height: int, width: int, head_dim: int
) -> tuple[Float[Tensor, "token half"], Float[Tensor, "token half"]]:
    """Of one group of the tail, in the one slot between the recent past and the recalled frames."""
    nearest = schedule.tail_kernel
    sides = (TAIL_CELLS * nearest.rows, TAIL_CELLS * nearest.cols)
    if schedule.tail == "tc":
        sides = (height + height % 2, width + width % 2)
    time = torch.tensor([-(schedule.recent_frames + 1.0)])
    return kernel_phases(time, height, width, head_dim, Kernel(1, *sides))
