"""An imagined world as a gymnasium environment. Importing this registers `WorldSim/NeuralWorld-v0`."""

import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import UInt8

from worldsim.checkpoint import WorldModels, default_checkpoint, load_checkpoint
from worldsim.recall import MemoryMode
from worldsim.section import Section
from worldsim.world import World, WorldSettings


class NeuralWorldEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Walk through a world that the model makes up; no reward (always 0.0), no end but `max_steps`.

    One step makes one section: the action is held for all its frames, and the observation is the last of them,
    uint8 `(height, width, 3)`. Action: one entry a factor of the checkpoint's action space, which
    `world.models.action_space` names. `info`: `world_seed`, `memory_frames` (frames in memory after the step),
    `recalled_frames` and `recalled_ages`, int64 `(recalled,)`: numbers and ages, in frames, of those that the step
    looked back at, best first.
    The same (world seed, actions) give the same world on the same machine; so does `info`, which is why how long the
    last call took lies in `latency_s` beside it.
    """

    # The speed of the game that the shipped model learned from.
    metadata = {"render_modes": ["rgb_array"], "render_fps": 35 / 4}  # noqa: RUF012 (gymnasium's own form)

    def __init__(
        self,
        checkpoint: Path | str | None = None,
        device: str = "auto",
        memory_mode: MemoryMode = "hybrid",
        denoising_steps: int | None = None,
        max_steps: int | None = None,
        models: WorldModels | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Load a checkpoint folder (None: the shipped one), or take `models` that are loaded already.

        `device`: auto, cpu or cuda; `denoising_steps`: None takes the checkpoint's; `max_steps`: steps before
        truncation, None for endless episodes. Raises ValueError or OSError for what cannot be used.
        """
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r} is not None or 'rgb_array'")
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps {max_steps} is not at least 1; give None for endless episodes")
        if memory_mode == "oracle":
            raise ValueError("memory mode 'oracle' needs true poses; it is for evaluation only")
        if models is None:
            models = load_checkpoint(checkpoint or default_checkpoint(), device)
        elif checkpoint is not None:
            raise ValueError(f"checkpoint {checkpoint} and models are both given; give one")
        self.render_mode, self.max_steps = render_mode, max_steps
        self.world = World(models, WorldSettings(memory_mode=memory_mode, denoising_steps=denoising_steps))
        config = models.transformer.config
        shape = (8 * config.latent_height, 8 * config.latent_width, 3)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gymnasium.spaces.MultiDiscrete(list(models.action_space.sizes))
        self.latency_s = 0.0
        """seconds that the last reset or step took"""
        self._frame: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[np.ndarray, "height width 3"], dict[str, Any]]:
        """Begin a world at the opening that its seed picks; the observation is the opening's last frame.

        Option `world_seed` (integer >= 0) names the world; without it `seed` does, and without that it is drawn.
        """
        started = time.perf_counter()
        options = dict(options or {})
        unknown = sorted(set(options) - {"world_seed"})
        if unknown:
            raise ValueError(f"option {unknown[0]!r} is not known; the option is 'world_seed'")
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(1 << 31)) if seed is None else seed
        frames_u8 = self.world.reset(_world_seed(options.get("world_seed", drawn)))
        return self._observe(frames_u8[-1], None, started)

    def step(
        self, action: Any
    ) -> tuple[UInt8[np.ndarray, "height width 3"], float, bool, bool, dict[str, Any]]:
        """Make the next section with the action held; ValueError if it is not of the action space."""
        if self._frame is None:
            raise RuntimeError("no world has begun; call reset first")
        started = time.perf_counter()
        held = np.asarray(action)
        factors = len(self.world.models.action_space.factors)
        if held.shape != (factors,) or not np.issubdtype(held.dtype, np.integer):
            raise ValueError(f"action {action!r} is not {factors} integers; give one a factor")
        section = self.world.step(np.tile(held.astype(np.int64), (self.world.section_length, 1)))
        frame, info = self._observe(section.frames_u8[-1], section, started)
        truncated = self.max_steps is not None and self.world.steps >= self.max_steps
        return frame, 0.0, False, truncated, info

    def _observe(
        self, frame_u8: UInt8[np.ndarray, "height width 3"], section: Section | None, started: float
    ) -> tuple[UInt8[np.ndarray, "height width 3"], dict[str, Any]]:
        recalled = () if section is None else section.recalled
        info = {
            "world_seed": self.world.seed,
            "memory_frames": len(self.world.memory),
            "recalled_frames": np.array([past.frame for past in recalled], np.int64),
            "recalled_ages": np.array([past.age for past in recalled], np.int64),
        }
        self._frame = frame_u8
        self.latency_s = time.perf_counter() - started
        return frame_u8.copy(), info

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:
        """A copy of the last frame, or None without a render mode or before the first reset."""
        if self.render_mode is None or self._frame is None:
            return None
        return self._frame.copy()


def _world_seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"world_seed {value!r} is not an integer >= 0")
    return int(value)


gymnasium.register(id="WorldSim/NeuralWorld-v0", entry_point="worldsim.neural_env:NeuralWorldEnv")
