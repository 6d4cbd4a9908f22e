"""How the next section's query is put together and how past frames are scored: the same at play and in training."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from models.packer import pad_actions
from retrieval.descriptor import LearnedDescriptor
from retrieval.place import PlaceSettings, place_keys, place_queries
from retrieval.similarity import exponential_time, gaussian_time, hybrid, latent_cosine

MemoryMode = Literal["off", "random", "cosine", "time", "place", "hybrid", "oracle"]
MEMORY_MODES: tuple[MemoryMode, ...] = ("off", "random", "cosine", "time", "place", "hybrid", "oracle")

Measure = Literal["learned", "latent"]
"""what frames are compared by: the descriptor's keys with e^(-age/τ), place and heading, or the paper's formula, the cosine
of latent pixels with e^(-t²) (FramePack, similarity packing), X̂ the newest latent"""

WINDOW_AGES = (1, 2, 4, 8)
"""ages of the recent latents that a query looks at, newest first"""
ACTION_STEPS = 8
"""actions of the past that a query looks at, before the section's own"""


@dataclass(frozen=True, kw_only=True)
class RecallSettings:
    """Scores and spread of recall; stored in the checkpoint, because training and play must agree on them."""

    measure: Measure = "learned"
    """what scores go by where the memory's mode is hybrid"""
    time_weight: float = 0.1
    """λ_time: weight of the time term against a cosine of at most 1"""
    time_constant: float = 100.0
    """age in frames at which the time term has fallen to 1/e"""
    heading_weight: float = 0.4
    """cost of looking the other way, against a cosine of at most 1; see `PlaceSettings`"""
    position_weight: float = 0.4
    """cost of being elsewhere; worth as much as the odometer's positions are"""
    gap_frames: int = 6
    """recalled frames lie more than this many frames apart, so that they show several places"""
    frames_per_second: float = 8.75
    """of the game: the paper's time is in seconds"""

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            raise ValueError(
                f"measure {self.measure!r} is not known; use one of {', '.join(get_args(Measure))}"
            )


PLACE = PlaceSettings()
"""place and heading alone: what the modes place and oracle rank by"""


@dataclass(frozen=True)
class Recalled:
    """One recalled frame."""

    frame: int
    """its number in memory, 0 the oldest"""
    age: int
    """frames between it and the section that it was recalled for"""
    score: float


FARTHEST = -8.0
"""hybrid score below which a past frame has nothing to do with the coming view: one of a hundred frames that real play's
mazes have to offer lies lower, all of them do where a made-up hall has no end"""
STANDING = 0.5
"""the same where the player stands: the recent frames show what is seen already, and what lies farther off than some 70
units, or was seen with another heading, can only take their place"""
STANDS_UNITS, STANDS_DEG = 8.0, 3.0
"""a step shorter and turning less than that is none: a wall stands in the way, or no key is held"""


def least_score(
    expected: Float[Tensor, "batch 3"], newest: Float[Tensor, "batch 3"], settings: RecallSettings
) -> Float[Tensor, " batch"]:
    """The hybrid score that a recalled frame has at least, by the poses of the coming and of the newest frame.

    The paper's measure knows no places, and has no limit.
    """
    if settings.measure == "latent":
        return torch.full_like(expected[:, 0], -torch.inf)
    step = (expected - newest).abs()
    stands = (step[:, :2].norm(dim=1) < STANDS_UNITS) & (step[:, 2] < STANDS_DEG)
    return torch.where(stands, STANDING, FARTHEST)


def make_queries(
    descriptor: LearnedDescriptor,
    recent: Float[Tensor, "batch recent channel height width"],
    recent_present: Bool[Tensor, "batch recent"],
    actions: Int[Tensor, "batch step factor"],
    section: int,
) -> Float[Tensor, "batch dim"]:
    """The query X̂ of the coming section: what a past frame that covers its view would have as key.

    `recent` is oldest first; frames of the descriptor's window that it does not reach count as absent, as they are
    early in a world. `actions` end with the section's own.
    """
    missing = max(0, max(WINDOW_AGES) - recent.shape[1])
    recent = functional.pad(recent, (0, 0) * 3 + (missing, 0))
    recent_present = functional.pad(recent_present, (missing, 0))
    # Slices, because a list of numbers would be copied to the device, which no CUDA graph can repeat.
    window, present = (
        torch.stack([each[:, -age] for age in WINDOW_AGES], 1) for each in (recent, recent_present)
    )
    return descriptor.queries(window, pad_actions(actions, ACTION_STEPS + section).long(), present)


def score_all(
    keys: Float[Tensor, "batch n dim"],
    queries: Float[Tensor, "batch dim"],
    ages: Int[Tensor, "batch n"],
    poses: Float[Tensor, "batch n 3"],
    coming_pose: Float[Tensor, "batch 3"],
    settings: RecallSettings,
) -> Float[Tensor, "batch n"]:
    """The index's hybrid score of every past frame, for whole episodes at once (training)."""
    near = score_places(poses, coming_pose, hybrid_place(settings))
    cosine = torch.einsum("bnd,bd->bn", keys.float(), queries.float())
    time = exponential_time(ages.flatten().clamp(min=0).float(), settings.time_constant)
    scored = hybrid(cosine.flatten(), time, settings.time_weight).view_as(cosine)
    return scored + near


def score_latents(
    latents: Float[Tensor, "batch n channel height width"],
    newest: Float[Tensor, "batch channel height width"],
    ages: Int[Tensor, "batch n"],
    settings: RecallSettings,
) -> Float[Tensor, "batch n"]:
    """The paper's sim_hybrid of every frame with the newest one, whose age is 1."""
    times = gaussian_time((ages.float() - 1) / settings.frames_per_second, 0.0)
    return hybrid(latent_cosine(latents, newest), times, settings.time_weight)


def hybrid_place(settings: RecallSettings) -> PlaceSettings:
    """What place and heading count in the hybrid score."""
    return replace(PLACE, heading_weight=settings.heading_weight, position_weight=settings.position_weight)


def score_places(
    poses: Float[Tensor, "batch n 3"], coming_pose: Float[Tensor, "batch 3"], settings: PlaceSettings
) -> Float[Tensor, "batch n"]:
    """How near each pose is to the coming one: 0 the same, lower the farther."""
    keys = place_keys(poses.flatten(0, 1), settings).unflatten(0, poses.shape[:2])
    return torch.einsum("bnc,bc->bn", keys, place_queries(coming_pose, settings))
