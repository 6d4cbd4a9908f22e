"""Weights that were trained with one schedule, for a model of another.

FramePack begins from a model whose only projection is k1's, and makes those of the other rates of it (section 3.1).
Between our own schedules more can be kept: each level takes the projection that was trained for its kernel, if
possible in the same part of the schedule.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.history import AGED
from models.kernel import Kernel
from models.patchifier import LatentPatchifier
from models.schedule import PACKED, Part, Schedule
from models.transformer import WorldTransformer

OF_A_SCHEDULE = ("packer.", "gap.", "codebook.")
"""names of weights that another schedule may lack or have besides"""


@dataclass(frozen=True)
class Level:
    """One level of a schedule, and where a transformer keeps its weights."""

    part: Part
    kernel: Kernel
    projection: str
    actions: str | None
    """None: its frames are marked with their ages"""
    row: int
    """of the level embedding"""

    def likeness(self, other: "Level") -> tuple[bool, bool]:
        """Larger is more alike."""
        return self.part == other.part, (self.part in AGED) == (other.part in AGED)


def levels_of(schedule: Schedule) -> Iterator[Level]:
    """In the order of the packed tokens."""
    row = 0
    for part in PACKED:
        for i, level in enumerate(schedule.levels(part)):
            name = {"recent": f"levels.{i}", "recalled": "recalled"}.get(part, f"{part}.{i}")
            actions = {"recent": f"actions.{i}", "coming": f"coming_actions.{i}"}.get(part)
            yield Level(part, level.kernel, f"packer.{name}", actions and f"packer.{actions}", row)
            row += 1


@torch.no_grad()
def start_from(model: WorldTransformer, trained: WorldTransformer) -> tuple[str, ...]:
    """Give `model` the weights of `trained`; returns what starts anew, by name.

    Parts that `trained` lacks altogether start anew: a refiner, a codebook, the age of remembered frames. ValueError
    names what has another shape, or what only `trained` has and no schedule explains.
    """
    old, new = trained.state_dict(), model.state_dict()
    before, after = list(levels_of(trained.schedule)), list(levels_of(model.schedule))
    renamed = {name for each in (*before, *after) for name in (each.projection, each.actions)}
    kept = {name: tensor for name, tensor in old.items() if _owner(name) not in renamed}
    taken = {
        name: tensor for name, tensor in kept.items() if name in new and name != "packer.level_embedding"
    }
    for name, tensor in taken.items():
        if tensor.shape != new[name].shape:
            raise ValueError(f"{name} has shape {(*tensor.shape,)}, not {(*new[name].shape,)}")
    extra = [name for name in kept if name not in new and not name.startswith(OF_A_SCHEDULE)]
    parents = {_parent(name) for name in new if name not in old and not name.startswith(OF_A_SCHEDULE)}
    torn = [*extra, *(name for name in old if _parent(name) in parents)]
    if torn:
        raise ValueError(f"{torn[0]} has no place in the model, or only a part of one")
    for level in after:
        taken |= _weights_of(level, before, model, trained)
    taken["packer.level_embedding"] = _embeddings(after, before, old, new)
    model.load_state_dict(taken, strict=False)
    return tuple(sorted({_owner(name) for name in new if name not in taken}))


def _weights_of(
    level: Level, levels: Sequence[Level], model: WorldTransformer, trained: WorldTransformer
) -> dict[str, Tensor]:
    """Projections of one level's latents and actions."""
    projection, source = model.get_submodule(level.projection), _nearest(level, levels)
    found = trained.get_submodule(source.projection)
    assert isinstance(projection, LatentPatchifier)
    assert isinstance(found, LatentPatchifier)
    projection.initialise_from(found)
    taken = {f"{level.projection}.{name}": tensor for name, tensor in projection.state_dict().items()}
    told = [each for each in levels if each.actions is not None and each.kernel.frames == level.kernel.frames]
    if level.actions is not None and told:
        best = max(told, key=level.likeness).actions
        assert best is not None
        weights = trained.get_submodule(best).state_dict()
        taken |= {f"{level.actions}.{name}": tensor for name, tensor in weights.items()}
    return taken


def _nearest(level: Level, levels: Sequence[Level]) -> Level:
    """The most alike of those with its kernel; the finest of all where none has it."""
    same = [each for each in levels if each.kernel == level.kernel]
    return max(same, key=level.likeness) if same else min(levels, key=lambda each: each.kernel.cells)


def _embeddings(
    levels: Sequence[Level], found: Sequence[Level], old: dict[str, Tensor], new: dict[str, Tensor]
) -> Tensor:
    """The level embedding; a tail's row, the last one, is kept where both have a tail."""
    before, rows = old["packer.level_embedding"], new["packer.level_embedding"].clone()
    for level in levels:
        rows[level.row] = before[_nearest(level, found).row]
    if len(rows) > len(levels) and len(before) > len(found):
        rows[-1] = before[-1]
    return rows


def _owner(name: str) -> str:
    """Of `packer.levels.0.proj.weight` `packer.levels.0`: what has weight and bias, a patchifier's projection with it."""
    return name.rpartition(".")[0].removesuffix(".proj")


def _parent(name: str) -> str:
    return name.partition(".")[0]
