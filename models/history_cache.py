"""What a section's denoising steps share: the history's keys and values."""

from dataclasses import dataclass, fields, replace
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from models.rotary import Phases


@dataclass(frozen=True)
class Tokens:
    """Tokens of frames on their way through the layers."""

    x: Float[Tensor, "batch frame token width"]
    modulation: Float[Tensor, "batch frame six width"]
    phases: Phases


@dataclass(frozen=True)
class HistoryCache:
    """Keys and values of the history in every layer, and the mask of tokens that exist (None: all)."""

    keys: list[Float[Tensor, "batch head token dim"]]
    values: list[Float[Tensor, "batch head token dim"]]
    present: Bool[Tensor, "batch token"] | None
    sigma: Float[Tensor, " batch"]
    newest: Float[Tensor, "batch channel rows cols"]
    """as in `Pack`"""
    section_phases: Phases
    steer: Float[Tensor, "batch section width"] | None
    """as in `Pack`"""
    warped_tokens: Float[Tensor, "batch section own_token width"] | None = None
    """what warped past frames add to the section's tokens"""
    warped_cells: Float[Tensor, "batch section channels rows cols"] | None = None
    """what they add to what the refiner takes in"""
    tokens: Tokens | None = None
    """the history before the first layer: of joint attention, which can keep no keys and values"""

    def rows(self, part: slice) -> "HistoryCache":
        """Of some histories of the batch, without gradients."""
        return replace(self, **{each.name: _rows(getattr(self, each.name), part) for each in fields(self)})


def _rows(value: Any, part: slice) -> Any:
    if isinstance(value, Tensor):
        return value[part].detach()
    if isinstance(value, Phases):
        return value.rows(lambda each: each[part].detach())
    if isinstance(value, Tokens):
        return replace(value, **{each.name: _rows(getattr(value, each.name), part) for each in fields(value)})
    return [_rows(each, part) for each in value] if isinstance(value, list) else value
