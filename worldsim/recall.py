"""How the next section's query is put together and how past frames are scored: the same at play and in training."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.packer import pad_actions
from retrieval.descriptor import LearnedDescriptor
from retrieval.similarity import exponential_time, hybrid

MemoryMode = Literal["off", "random", "cosine", "time", "hybrid", "oracle"]
MEMORY_MODES: tuple[MemoryMode, ...] = ("off", "random", "cosine", "time", "hybrid", "oracle")

WINDOW_AGES = (1, 2, 4, 8)
"""ages of the recent latents that a query looks at, newest first"""
ACTION_STEPS = 8
"""actions of the past that a query looks at, before the section's own"""


@dataclass(frozen=True, kw_only=True)
class RecallSettings:
    """Scores and spread of recall; stored in the checkpoint, because training and play must agree on them."""

    time_weight: float = 0.1
    """λ_time: weight of the time term against a cosine of at most 1"""
    time_constant: float = 100.0
    """age in frames at which the time term has fallen to 1/e"""
    gap_frames: int = 6
    """recalled frames lie more than this many frames apart, so that they show several places"""


def make_queries(
    descriptor: LearnedDescriptor,
    recent: Float[Tensor, "batch recent channel height width"],
    recent_present: Bool[Tensor, "batch recent"],
    actions: Int[Tensor, "batch step factor"],
    section: int,
) -> Float[Tensor, "batch dim"]:
    """The query X̂ of the coming section: what a past frame that covers its view would have as key.

    `recent` is oldest first and reaches back at least 8 frames; `actions` end with the section's own.
    """
    ages = [-age for age in WINDOW_AGES]
    window, present = recent[:, ages], recent_present[:, ages]
    return descriptor.queries(window, pad_actions(actions, ACTION_STEPS + section).long(), present)


def score_all(
    keys: Float[Tensor, "batch n dim"],
    queries: Float[Tensor, "batch dim"],
    ages: Int[Tensor, "batch n"],
    settings: RecallSettings,
) -> Float[Tensor, "batch n"]:
    """The index's hybrid score of every past frame, for whole episodes at once (training)."""
    cosine = torch.einsum("bnd,bd->bn", keys.float(), queries.float())
    time = exponential_time(ages.flatten().clamp(min=0).float(), settings.time_constant)
    return hybrid(cosine.flatten(), time, settings.time_weight).view_as(cosine)
