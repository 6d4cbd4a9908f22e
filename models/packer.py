"""FramePack's packing: history latents of falling resolution become one fixed-length row of tokens."""

from dataclasses import dataclass, replace
from math import log

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from models.history import History
from models.kernel import Kernel
from models.patchifier import LatentPatchifier
from models.rotary import Phases, kernel_phases
from models.schedule import Schedule
from models.viewpoint import MoveEmbedding, relative_poses

_AGE_FREQUENCIES = 16


@dataclass(frozen=True)
class Pack:
    """Tokens of a history, the mask of those that exist, their rotary phases, and what the section needs of it."""

    tokens: Float[Tensor, "batch token width"]
    present: Bool[Tensor, "batch token"] | None
    """None: every token is present"""
    phases: Phases
    newest: Float[Tensor, "batch channel rows cols"]
    """the history's newest latent"""
    section_phases: Phases
    """of the section's own tokens"""
    steer: Float[Tensor, "batch section width"] | None = None
    """how the view moves from the newest frame to each frame of the section; None where the model is not told"""

    def without_absent(self) -> "Pack":
        """For a batch of one: leave absent tokens out, so that attention needs no mask."""
        if self.present is None or len(self.tokens) != 1:
            return self
        keep = self.present[0]
        return replace(self, tokens=self.tokens[:, keep], present=None, phases=self.phases.kept(keep))


class ActionEmbedding(nn.Module):
    """Integer action factors -> one vector: the sum of one table row a factor."""

    def __init__(self, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def forward(self, actions: Int[Tensor, "*batch factor"]) -> Float[Tensor, "*batch width"]:
        return sum(table(actions[..., i].long()) for i, table in enumerate(self.tables))


def check_packable(schedule: Schedule) -> None:
    """ValueError, naming what stands in the way, unless `HistoryPacker` can make tokens of the schedule."""
    kernels = [level.kernel for level in (*schedule.recent, schedule.recalled)]
    reasons = {
        "frames from the beginning, ahead or at the end": schedule.first or schedule.coming or schedule.last,
        f"tail {schedule.tail or 'x'}": schedule.tail != "td",
        "+D": schedule.discretised,
        "a kernel with an odd side above 1": any(
            side > 1 and side % 2 for kernel in kernels for side in (kernel.rows, kernel.cols)
        ),
        "no recent frames": not schedule.recent,
        "recalled frames in groups": schedule.recalled.kernel.frames > 1,
    }  # fmt: skip
    wrong = [reason for reason, there in reasons.items() if there]
    if wrong:
        raise ValueError(
            f"schedule {schedule.text!r}: the model cannot pack {wrong[0]} yet; use one like td_f16k4f4k2f2k1_r4k1_g1"
        )


class HistoryPacker(nn.Module):
    """Projects every level of the schedule, marks frames with their actions or ages, and pools rotary phases."""

    def __init__(
        self,
        schedule: Schedule,
        channels: int,
        height: int,
        width_cells: int,
        width: int,
        head_dim: int,
        action_width: int,
    ) -> None:
        super().__init__()
        check_packable(schedule)
        self.schedule = schedule
        kernels = [level.kernel for level in schedule.recent]
        levels = [LatentPatchifier(channels, kernel, width) for kernel in kernels]
        finest = LatentPatchifier(channels, Kernel.of_rate(1), width)
        self.levels = nn.ModuleList(levels)
        recalled = schedule.recalled
        self.recalled = LatentPatchifier(channels, recalled.kernel, width) if recalled.frames else None
        for patchifier in levels if self.recalled is None else [*levels, self.recalled]:
            patchifier.initialise_from(finest)
        self.actions = nn.ModuleList(nn.Linear(kernel.frames * action_width, width) for kernel in kernels)
        self.age = (
            nn.Sequential(nn.Linear(2 * _AGE_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
            if recalled.frames
            else None
        )
        self.level_embedding = nn.Parameter(torch.randn(len(kernels) + bool(recalled.frames), width) * 0.02)
        cos, sin = self._phases(height, width_cells, head_dim)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def _phases(self, height: int, width: int, head_dim: int) -> tuple[Tensor, Tensor]:
        """Times count back from the section (age a -> -a); recalled frames take slots beyond the recent past."""
        parts = []
        for level, groups in zip(self.schedule.recent, self.schedule.ages(), strict=True):
            times = -torch.tensor([float(age) for group in groups for age in group])
            parts.append(kernel_phases(times, height, width, head_dim, level.kernel))
        recalled = self.schedule.recalled
        slots = -(self.schedule.recent_frames + 2.0 * (1 + torch.arange(recalled.frames)))
        if recalled.frames:
            parts.append(kernel_phases(slots, height, width, head_dim, recalled.kernel))
        return torch.cat([cos for cos, _ in parts]), torch.cat([sin for _, sin in parts])

    def forward(
        self,
        history: History,
        action_vectors: Float[Tensor, "batch recent action_width"],
        moves: MoveEmbedding | None,
    ) -> tuple[Float[Tensor, "batch token width"], Bool[Tensor, "batch token"]]:
        """Tokens and which of them exist; `moves` tells where they were seen from."""
        tokens, present, start = [], [], 0
        origin = history.section_poses[:, 0]
        recent_poses = relative_poses(history.recent_poses, origin)
        for i, level in enumerate(self.schedule.recent):
            part = slice(start, start + level.frames)
            groups = self.levels[i](history.recent[:, part]) + self.level_embedding[i]
            if moves is not None:
                groups = groups + moves.of_groups(recent_poses[:, part], level.kernel.frames).unsqueeze(2)
            actions = action_vectors[:, part].unflatten(1, (level.groups, level.kernel.frames)).flatten(2)
            groups = groups + self.actions[i](actions).unsqueeze(2)
            whole = history.recent_present[:, part].unflatten(1, (level.groups, level.kernel.frames)).all(2)
            tokens.append(groups.flatten(1, 2))
            present.append(whole.repeat_interleave(groups.shape[2], dim=1))
            start += level.frames
        if self.recalled is None or self.age is None:
            return torch.cat(tokens, 1), torch.cat(present, 1)
        recalled = self.recalled(history.recalled) + self.level_embedding[-1]
        recalled = recalled + self.age(age_features(history.recalled_ages).to(recalled.dtype)).unsqueeze(2)
        if moves is not None:
            relative = relative_poses(history.recalled_poses, origin)
            recalled = recalled + moves.of_groups(relative, 1).unsqueeze(2)
        tokens.append(recalled.flatten(1, 2))
        present.append(history.recalled_present.repeat_interleave(recalled.shape[2], dim=1))
        return torch.cat(tokens, 1), torch.cat(present, 1)


def age_features(ages: Int[Tensor, "batch recalled"]) -> Float[Tensor, "batch recalled feature"]:
    """Sines and cosines of log(1 + age): ten thousand frames ago must not lie outside what training saw."""
    level = torch.log1p(ages.float().clamp(min=0))[..., None]
    frequencies = torch.exp(torch.linspace(-log(4.0), log(4.0), _AGE_FREQUENCIES, device=ages.device))
    return torch.cat((torch.sin(level * frequencies), torch.cos(level * frequencies)), dim=-1)


def pad_actions(
    actions: Int[Tensor, "batch step factor"], length: int
) -> Int[Tensor, "batch {length} factor"]:
    """The newest `length` actions, "none" before the first."""
    missing = max(0, length - actions.shape[1])
    return functional.pad(actions, (0, 0, missing, 0))[:, -length:]
