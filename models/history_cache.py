"""What a section's denoising steps share: the history's keys and values."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from models.rotary import Phases


@dataclass(frozen=True)
class HistoryCache:
    """Keys and values of the history in every layer, and the mask of tokens that exist (None: all)."""

    keys: list[Float[Tensor, "batch head token dim"]]
    values: list[Float[Tensor, "batch head token dim"]]
    present: Bool[Tensor, "batch token"] | None
    sigma: Float[Tensor, " batch"]
    newest: Float[Tensor, "batch channel rows cols"]
    """the history's newest latent"""
    section_phases: Phases
    steer: Float[Tensor, "batch section width"] | None
    """as in `Pack`"""

    def newest_rows(self, count: int) -> "HistoryCache":
        """Of the last `count` histories of the batch, without gradients."""

        def part(value: Any) -> Any:
            return value[-count:].detach() if isinstance(value, Tensor) else value

        phases = self.section_phases
        world = {name: part(getattr(phases, name)) for name in ("world_cos", "world_sin")}
        rest = {name: part(getattr(self, name)) for name in ("present", "sigma", "newest", "steer")}
        return HistoryCache(
            keys=[part(key) for key in self.keys],
            values=[part(value) for value in self.values],
            section_phases=replace(phases, **world),
            **rest,
        )
