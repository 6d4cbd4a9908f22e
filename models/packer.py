"""FramePack's packing: history latents of falling resolution become one fixed-length row of tokens."""

from dataclasses import dataclass, replace
from math import ceil, log

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from models.history import AGED, AgedFrames, History
from models.kernel import Kernel
from models.packed_phases import packed_phases, tail_phases
from models.patchifier import LatentPatchifier
from models.rotary import Phases
from models.schedule import PACKED, Part, Schedule
from models.viewpoint import MoveEmbedding, relative_poses

_AGE_FREQUENCIES = 16
AGE_FEATURES = 2 * _AGE_FREQUENCIES


@dataclass(frozen=True)
class Pack:
    """Tokens of a history, the mask of those that exist, their rotary phases, and what the section needs of it."""

    tokens: Float[Tensor, "batch token width"]
    present: Bool[Tensor, "batch token"] | None
    """None: every token is present"""
    phases: Phases
    newest: Float[Tensor, "batch channel rows cols"]
    """the latent next to the section: the history's newest, or where there is none the first one behind"""
    section_phases: Phases
    """of the section's own tokens"""
    times: Float[Tensor, "batch token"]
    """of each token's newest frame, counted back from the section: −1 is the newest of all"""
    steer: Float[Tensor, "batch section width"] | None = None
    """how the view moves from that frame to each frame of the section; None where the model is not told"""
    warped: Float[Tensor, "batch section told rows cols"] | None = None
    """what warped past frames tell of each frame of the section, see `models.warped_views`"""

    def without_absent(self) -> "Pack":
        """Where all of the batch lack the same tokens, as one world does: leave them out, attention needs no mask then."""
        if self.present is None or not (self.present == self.present[:1]).all():
            return self
        keep = self.present[0]
        return replace(
            self,
            tokens=self.tokens[:, keep],
            present=None,
            phases=self.phases.kept(keep),
            times=self.times[:, keep],
        )


class ActionEmbedding(nn.Module):
    """Integer action factors -> one vector: the sum of one table row a factor."""

    def __init__(self, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def forward(self, actions: Int[Tensor, "*batch factor"]) -> Float[Tensor, "*batch width"]:
        return sum(table(actions[..., i].long()) for i, table in enumerate(self.tables))


def check_packable(schedule: Schedule) -> None:
    """ValueError, naming what stands in the way, unless `HistoryPacker` can make tokens of the schedule."""
    kernels = [level.kernel for part in PACKED for level in schedule.levels(part)]
    reasons = {
        "a kernel with an odd side above 1": any(
            side > 1 and side % 2 for kernel in kernels for side in (kernel.rows, kernel.cols)
        ),
        "neither recent nor coming frames": not (schedule.recent or schedule.coming),
        "both recent and coming frames": schedule.recent and schedule.coming,
        "a tail that is kept ahead": schedule.tail_ahead and schedule.tail != "td",
        "recalled frames in groups": schedule.recalled.kernel.frames > 1,
    }  # fmt: skip
    wrong = [reason for reason, there in reasons.items() if there]
    if wrong:
        raise ValueError(
            f"schedule {schedule.text!r}: the model cannot pack {wrong[0]}; use one like td_f16k4f4k2f2k1_r4k1_g1"
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
        finest = LatentPatchifier(channels, Kernel.of_rate(1), width)

        def projections(part: Part) -> nn.ModuleList:
            made = [LatentPatchifier(channels, level.kernel, width) for level in schedule.levels(part)]
            for each in made:
                each.initialise_from(finest)
            return nn.ModuleList(made)

        def action_projections(part: Part) -> nn.ModuleList:
            counts = [level.kernel.frames for level in schedule.levels(part)]
            return nn.ModuleList(nn.Linear(count * action_width, width) for count in counts)

        self.levels, self.first = projections("recent"), projections("first")
        self.recalled = next(iter(projections("recalled")), None)
        self.ranked, self.coming, self.last = (projections(part) for part in ("ranked", "coming", "last"))
        self.actions, self.coming_actions = action_projections("recent"), action_projections("coming")
        self.has_tail = schedule.tail in ("ta", "tc")
        aged = [level for part in AGED if part != "coming" for level in schedule.levels(part)]
        self.age = (
            nn.Sequential(nn.Linear(AGE_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
            if aged or self.has_tail
            else None
        )
        count = sum(len(schedule.levels(part)) for part in PACKED)
        self.level_embedding = nn.Parameter(torch.randn(count + self.has_tail, width) * 0.02)
        self.cos: Tensor
        self.sin: Tensor
        self.tail_cos: Tensor
        self.tail_sin: Tensor
        for names, phases in (
            (("cos", "sin"), packed_phases(schedule, height, width_cells, head_dim)),
            (("tail_cos", "tail_sin"), tail_phases(schedule, height, width_cells, head_dim)),
        ):
            for name, values in zip(names, phases, strict=True):
                self.register_buffer(name, values, persistent=False)

    def phases(self, tail_frames: int) -> tuple[Float[Tensor, "token half"], Float[Tensor, "token half"]]:
        """Cosines and sines of a pack whose tail has so many frames."""
        groups = ceil(tail_frames / self.schedule.tail_kernel.frames)
        cos, sin = self.tail_cos.repeat(groups, 1), self.tail_sin.repeat(groups, 1)
        return torch.cat((self.cos, cos)), torch.cat((self.sin, sin))

    def _projections(self, part: Part) -> list[nn.Module]:
        if part == "recalled":
            return [] if self.recalled is None else [self.recalled]
        return [*(self.levels if part == "recent" else getattr(self, part))]

    def forward(
        self, history: History, actions: nn.Module, moves: MoveEmbedding | None
    ) -> tuple[Float[Tensor, "batch token width"], Bool[Tensor, "batch token"], Float[Tensor, "batch token"]]:
        """Tokens, which of them exist, and their times as in `Pack`.

        `actions` makes vectors of actions, `moves` tells where frames were seen from.
        """
        packed, embeddings = [], iter(self.level_embedding)
        origin = history.section_poses[:, 0]
        told = {
            "recent": (self.actions, actions(history.recent_actions)),
            "coming": (self.coming_actions, actions(history.coming_actions)),
        }
        for part in PACKED:
            frames, start = history.part(part), 0
            for i, projection in enumerate(self._projections(part)):
                assert isinstance(projection, LatentPatchifier)
                stop = start + self.schedule.levels(part)[i].frames
                one = frames.part(slice(start, stop))
                size = projection.kernel.frames
                if part in told:
                    linear, vectors = told[part][0][i], told[part][1][:, start:stop]
                    extra = linear(vectors.unflatten(1, (-1, size)).flatten(2))
                else:
                    extra = self._ages(one, size)
                if moves is not None:
                    extra = extra + moves.of_groups(relative_poses(one.poses, origin), size)
                behind = self.schedule.section - 1 if part in ("coming", "last") else None
                tokens = projection(one.latents) + next(embeddings) + extra.unsqueeze(2)
                packed.append(_token_by_token(tokens, one, behind))
                start = stop
        if self.has_tail and history.tail.latents.shape[1]:
            nearest = self.levels[0]
            assert isinstance(nearest, LatentPatchifier)
            # A tail's last group may lack frames: its last frame stands for them.
            tail = history.tail.filled_up(nearest.kernel.frames)
            ages = self._ages(tail, nearest.kernel.frames)
            packed.append(
                _token_by_token(nearest(tail.latents) + next(embeddings) + ages.unsqueeze(2), tail, None)
            )
        tokens, present, times = (torch.cat(column, 1) for column in zip(*packed, strict=True))
        return tokens, present, times

    def _ages(self, frames: AgedFrames, size: int) -> Float[Tensor, "batch group width"]:
        assert self.age is not None
        ages = age_features(frames.ages).unflatten(1, (-1, size)).mean(2)
        return self.age(ages.to(self.age[0].weight.dtype))


def _token_by_token(
    groups: Float[Tensor, "batch group token width"], frames: AgedFrames, behind: int | None
) -> tuple[Float[Tensor, "batch token_ width"], Bool[Tensor, "batch token_"], Float[Tensor, "batch token_"]]:
    """Tokens of groups of frames, which of them exist and the time of each one's newest frame.

    `behind` is the time of the section's last frame where frames lie behind it; None: they lie before it.
    """
    count, each = groups.shape[1:3]
    grouped = frames.ages.unflatten(1, (count, -1)).float()
    times = -grouped.amin(2) if behind is None else behind + grouped.amax(2)
    present = frames.present.unflatten(1, (count, -1)).all(2)
    return groups.flatten(1, 2), present.repeat_interleave(each, 1), times.repeat_interleave(each, 1)


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
