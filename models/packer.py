"""FramePack's packing: history latents of falling resolution become one fixed-length row of tokens."""

from dataclasses import dataclass, replace
from math import ceil, log

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from models.history import AgedFrames, History
from models.kernel import Kernel
from models.patchifier import TAIL_CELLS, LatentPatchifier
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
        """Where all of the batch lack the same tokens, as one world does: leave them out, attention needs no mask then."""
        if self.present is None or not (self.present == self.present[:1]).all():
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
    kernels = [level.kernel for level in (*schedule.first, *schedule.recent, schedule.recalled)]
    reasons = {
        "frames ahead or at the end": schedule.coming or schedule.last or schedule.tail_ahead,
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
        self.first = nn.ModuleList(
            LatentPatchifier(channels, level.kernel, width) for level in schedule.first
        )
        aged = [*([] if self.recalled is None else [self.recalled]), *self.first]
        for patchifier in (*levels, *aged):
            patchifier.initialise_from(finest)
        self.actions = nn.ModuleList(nn.Linear(kernel.frames * action_width, width) for kernel in kernels)
        self.has_tail = schedule.tail in ("ta", "tc")
        self.age = (
            nn.Sequential(nn.Linear(2 * _AGE_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
            if aged or self.has_tail
            else None
        )
        self.level_embedding = nn.Parameter(
            torch.randn(len(kernels) + len(aged) + self.has_tail, width) * 0.02
        )
        self.cos: Tensor
        self.sin: Tensor
        self.tail_cos: Tensor
        self.tail_sin: Tensor
        for names, phases in (
            (("cos", "sin"), self._phases(height, width_cells, head_dim)),
            (("tail_cos", "tail_sin"), self._tail_phases(height, width_cells, head_dim)),
        ):
            for name, values in zip(names, phases, strict=True):
                self.register_buffer(name, values, persistent=False)

    def _phases(self, height: int, width: int, head_dim: int) -> tuple[Tensor, Tensor]:
        """Times count back from the section (age a -> -a); recalled and first frames take slots beyond the recent past."""
        schedule, parts = self.schedule, []
        for level, groups in zip(schedule.recent, schedule.ages(), strict=True):
            times = -torch.tensor([float(age) for group in groups for age in group])
            parts.append(kernel_phases(times, height, width, head_dim, level.kernel))
        beyond = schedule.recent_frames + 2.0
        if schedule.recalled.frames:
            slots = -(beyond + 2.0 * torch.arange(schedule.recalled.frames))
            parts.append(kernel_phases(slots, height, width, head_dim, schedule.recalled.kernel))
        # The oldest lies farthest back.
        start = -(beyond + 2.0 * schedule.recalled.frames + schedule.first_frames)
        for level in schedule.first:
            times = start + torch.arange(level.frames)
            parts.append(kernel_phases(times, height, width, head_dim, level.kernel))
            start += level.frames
        return torch.cat([cos for cos, _ in parts]), torch.cat([sin for _, sin in parts])

    def _tail_phases(self, height: int, width: int, head_dim: int) -> tuple[Tensor, Tensor]:
        """Of one group of the tail, in the one slot between the recent past and the recalled frames."""
        nearest = self.schedule.recent[0].kernel
        sides = (TAIL_CELLS * nearest.rows, TAIL_CELLS * nearest.cols)
        if self.schedule.tail == "tc":
            sides = (height + height % 2, width + width % 2)
        time = torch.tensor([-(self.schedule.recent_frames + 1.0)])
        return kernel_phases(time, height, width, head_dim, Kernel(1, *sides))

    def phases(self, tail_frames: int) -> tuple[Float[Tensor, "token half"], Float[Tensor, "token half"]]:
        """Cosines and sines of a pack whose tail has so many frames."""
        groups = ceil(tail_frames / self.schedule.recent[0].kernel.frames)
        cos, sin = self.tail_cos.repeat(groups, 1), self.tail_sin.repeat(groups, 1)
        return torch.cat((self.cos, cos)), torch.cat((self.sin, sin))

    def forward(
        self,
        history: History,
        action_vectors: Float[Tensor, "batch recent action_width"],
        moves: MoveEmbedding | None,
    ) -> tuple[Float[Tensor, "batch token width"], Bool[Tensor, "batch token"]]:
        """Tokens and which of them exist; `moves` tells where they were seen from."""
        packed, start = [], 0
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
            packed.append((groups, whole))
            start += level.frames
        embeddings = iter(self.level_embedding[len(self.schedule.recent) :])
        if self.recalled is not None:
            packed.append(self._aged(history.recalled, self.recalled, next(embeddings), origin, moves))
        start = 0
        for patchifier, level in zip(self.first, self.schedule.first, strict=True):
            frames = history.first.part(slice(start, start + level.frames))
            packed.append(self._aged(frames, patchifier, next(embeddings), origin, moves))
            start += level.frames
        if self.has_tail and history.tail.latents.shape[1]:
            packed.append(self._aged(history.tail, self.levels[0], next(embeddings), origin, None))
        tokens = [groups.flatten(1, 2) for groups, _ in packed]
        present = [exists.repeat_interleave(groups.shape[2], dim=1) for groups, exists in packed]
        return torch.cat(tokens, 1), torch.cat(present, 1)

    def _aged(
        self,
        frames: AgedFrames,
        patchifier: nn.Module,
        embedding: Float[Tensor, " width"],
        origin: Float[Tensor, "batch 3"],
        moves: MoveEmbedding | None,
    ) -> tuple[Float[Tensor, "batch group token width"], Bool[Tensor, "batch group"]]:
        """Tokens of groups of frames that are told by their ages, and which groups are whole.

        A tail's last group may lack frames: its last frame stands for them.
        """
        assert self.age is not None
        assert isinstance(patchifier, LatentPatchifier)
        size = patchifier.kernel.frames
        frames = frames.filled_up(size)
        groups = patchifier(frames.latents) + embedding
        ages = age_features(frames.ages).unflatten(1, (-1, size)).mean(2)
        groups = groups + self.age(ages.to(groups.dtype)).unsqueeze(2)
        if moves is not None:
            groups = groups + moves.of_groups(relative_poses(frames.poses, origin), size).unsqueeze(2)
        return groups, frames.present.unflatten(1, (-1, size)).all(2)


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
