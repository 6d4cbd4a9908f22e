"""An imagined world as something to play: `World` behind the window's protocol."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from worldsim.checkpoint import load_checkpoint
from worldsim.episode_format import EpisodeHeader
from worldsim.play.simulation import Moment, RecalledFrame
from worldsim.world import World, WorldSettings

ENVIRONMENT = "worldsim"


class ImaginedSimulation:
    """Plays the world of a checkpoint. Nobody knows poses in it."""

    def __init__(self, checkpoint: Path, device: str, settings: WorldSettings) -> None:
        """Loads the models; ValueError or OSError when the checkpoint cannot be used."""
        self._checkpoint, self._settings = checkpoint, settings
        models = load_checkpoint(checkpoint, device=device)
        self._world = World(models, settings)
        self.action_space = models.action_space
        self.section_length = self._world.section_length
        self.title = f"imagined world ({models.device})"
        self.memory_mode: str | None = settings.memory_mode

    def reset(self, seed: int) -> Moment:
        """The opening of the world of that seed."""
        return self._moment(self._world.reset(seed))

    def step(self, actions: Int64[np.ndarray, "time factors"]) -> Moment:
        """The next section."""
        section = self._world.step(actions)
        recalled = tuple(
            RecalledFrame(frame=past.frame, age=past.age, score=past.score) for past in section.recalled
        )
        return self._moment(section.frames_u8, recalled, section.timings_s)

    def frame_u8(self, frame: int) -> UInt8[np.ndarray, "height width 3"]:
        """Decodes a frame from memory."""
        return self._world.frame_u8(frame)

    def episode_header(self, seed: int) -> EpisodeHeader:
        """The world's seed and settings; there is no map."""
        return EpisodeHeader(
            environment=ENVIRONMENT,
            engine=f"torch {torch.__version__}",
            seed=seed,
            map_seed=seed,
            map_hash="",
            action_space=self.action_space,
            settings={"checkpoint": self._checkpoint.name, **asdict(self._settings)},
        )

    def close(self) -> None:
        """Nothing to give back: the models go with this object."""

    def _moment(
        self,
        frames_u8: UInt8[np.ndarray, "time height width 3"],
        recalled: tuple[RecalledFrame, ...] = (),
        timings_s: dict[str, float] | None = None,
    ) -> Moment:
        return Moment(
            frames_u8=frames_u8,
            recalled=recalled,
            memory_frames=len(self._world.memory),
            timings_s=timings_s or {},
        )
