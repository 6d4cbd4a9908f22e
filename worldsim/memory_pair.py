"""Two worlds of the same opening, weights and noise; one has its memory switched off."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from worldsim.checkpoint import WorldModels, default_checkpoint, load_checkpoint
from worldsim.world import World, WorldSettings


@dataclass(frozen=True, kw_only=True)
class FilmSettings:
    """What every film of both worlds is made from."""

    out: Path
    """Video to write (.gif or .mp4); a film strip of the same name, .png, is written beside it."""
    checkpoint: Path | None = None
    """Checkpoint folder; the shipped one if left out."""
    seed: int = 0
    """Chooses the opening and the noise."""
    device: str = "auto"
    """auto, cpu, cuda ..."""

    def load_models(self) -> WorldModels:
        """The checkpoint's. OSError or ValueError, one line, if it is missing or torn."""
        return load_checkpoint(self.checkpoint or default_checkpoint(), self.device)


@dataclass(frozen=True)
class Moment:
    """What both worlds showed at one step."""

    off_u8: UInt8[np.ndarray, "height width 3"]
    hybrid_u8: UInt8[np.ndarray, "height width 3"]
    recalled_u8: tuple[UInt8[np.ndarray, "height width 3"], ...]
    """the frames that memory recalled for it"""
    ages: tuple[int, ...]
    """of each, in frames"""
    pose: Float32[np.ndarray, "3"]
    """where the world with memory takes the player to be: x, y in map units, heading in degrees"""


class MemoryPair:
    """Both worlds side by side, under the same actions."""

    def __init__(self, models: WorldModels, seed: int) -> None:
        """ValueError where the checkpoint has no openings."""
        self._off, self._hybrid = (
            World(models, WorldSettings(memory_mode=mode)) for mode in ("off", "hybrid")
        )
        off, hybrid = (world.reset(seed)[-1] for world in (self._off, self._hybrid))
        self.first = Moment(off, hybrid, (), (), self._poses(1)[0])
        """the opening's last frame"""

    def step(self, actions: Int64[np.ndarray, "section factor"]) -> list[Moment]:
        """One moment for every frame of the section."""
        off, hybrid = self._off.step(actions), self._hybrid.step(actions)
        recalled = tuple(self._hybrid.frame_u8(pick.frame) for pick in hybrid.recalled)
        ages = tuple(pick.age for pick in hybrid.recalled)
        poses = self._poses(len(actions))
        return [
            Moment(off.frames_u8[i], hybrid.frames_u8[i], recalled, ages, poses[i])
            for i in range(len(actions))
        ]

    def _poses(self, count: int) -> Float32[np.ndarray, "{count} 3"]:
        memory = self._hybrid.memory
        return memory.poses[len(memory) - count :].cpu().numpy().copy()
