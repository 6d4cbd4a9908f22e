"""What the window asks of a world, so that one window plays imagined worlds and real engines alike."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from worldsim.action_space import ActionSpace
from worldsim.episode_format import EpisodeHeader


@dataclass(frozen=True, kw_only=True)
class RecalledFrame:
    """A past frame that the world looked at to make its section: frame number, age in frames, similarity score."""

    frame: int
    age: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a frame was seen: pose = x, y, z in map units and yaw in degrees [0, 360), room number, engine tic."""

    pose: Float32[np.ndarray, "4"]
    room: int
    tic: int


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a reset or a step shows: its frames, oldest first, the last being "now".

    places has one entry a frame, or none where nobody knows; timings_s are seconds a stage. memory_frames is None
    for a world that keeps no memory.
    """

    frames_u8: UInt8[np.ndarray, "time height width 3"]
    places: tuple[Place, ...] = ()
    recalled: tuple[RecalledFrame, ...] = ()
    memory_frames: int | None = None
    timings_s: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Simulation(Protocol):
    """A world one can walk through. All methods are called from one thread, the one that built it."""

    action_space: ActionSpace
    section_length: int
    title: str
    memory_mode: str | None

    def reset(self, seed: int) -> Moment:
        """Starts the world of that seed anew."""
        ...

    def step(self, actions: Int64[np.ndarray, "time factors"]) -> Moment:
        """Makes the next section from section_length actions."""
        ...

    def frame_u8(self, frame: int) -> UInt8[np.ndarray, "height width 3"]:
        """The frame of that number, counted from the first frame after reset; asked for recalled frames only."""
        ...

    def episode_header(self, seed: int) -> EpisodeHeader:
        """What a recording of the world of that seed, just reset, must know."""
        ...

    def close(self) -> None:
        """Frees what the world holds."""
        ...


SimulationMaker = Callable[[], Simulation]
