"""The maze as a gymnasium environment: rooms seen through the player's eyes."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium
import numpy as np
import vizdoom
from jaxtyping import Float32, Int, UInt8

from envs.colours import average_frame
from envs.engine import BUTTONS, Engine
from envs.maze_map import MazeMap, MazeMapSettings
from envs.room import PLAYER_RADIUS, Spawn

Screen = UInt8[np.ndarray, "screen_height screen_width *channels"]
"""What the engine shows, `supersample` times the frame's size: in palette numbers, or another game's in colours."""
# Fitted to walls at known distances: the engine counts depth in such steps, from a first one that depends on the
# screen's width.
DEPTH_STEP = 7.13
DEPTH_FIRST = ((256, 400, 512, 640, 800), (8.7, 12.3, 14.6, 14.7, 20.7))


@dataclass(frozen=True, kw_only=True)
class MazeEnvSettings:
    """What the environment shows and how it steps.

    width, height: of frames, in pixels; supersample: the engine renders that many times as many pixels along
    each side, which are averaged; tics_per_step: engine tics (1/35 s) that an action is held; max_steps: steps
    before truncation (None: endless); depth: also tell `info["depth"]`; map: how maps are made.
    """

    width: int = 128
    height: int = 96
    supersample: int = 4
    tics_per_step: int = 4
    max_steps: int | None = None
    depth: bool = False
    map: MazeMapSettings = field(default_factory=MazeMapSettings)

    def __post_init__(self) -> None:
        if not 1 <= self.supersample <= 8:
            raise ValueError(f"supersample {self.supersample} is not within 1..8")
        if not 1 <= self.tics_per_step <= 35:
            raise ValueError(f"tics_per_step {self.tics_per_step} is not within 1..35")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps {self.max_steps} is not at least 1; give None for endless episodes")


class MazeEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Walk through a maze of rooms; no reward, no end but `max_steps`.

    Observation: frame, uint8 `(height, width, 3)`. Action: `[move, turn, strafe]`, each 0..2, named in
    `action_factors`. `info`: `pose` float32 (4,) = x, y, z in map units and yaw in degrees within [0, 360) (0 east,
    90 north), `room`, `tic` (engine tics since the start), `seed`, `map_seed`, `map_hash`, and `depth` float32
    `(height, width)` in map units when asked for (see `nearest_depth`).
    The same (map seed, seed, actions) give the same frames, bit for bit, in any process.
    """

    environment: ClassVar[str] = "WorldSim/Maze-v0"
    metadata = {"render_modes": ["rgb_array"], "render_fps": 35 / 4}  # noqa: RUF012 (gymnasium's own form)
    engine: ClassVar[str] = f"vizdoom {vizdoom.__version__}"
    # name, choices, keys of the choices after "none"
    action_factors: ClassVar[tuple[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]], ...]] = (
        ("move", ("none", "forward", "back"), (("w", "up"), ("s", "down"))),
        ("turn", ("none", "left", "right"), (("left", "q"), ("right", "e"))),
        ("strafe", ("none", "left", "right"), (("a",), ("d",))),
    )

    def __init__(self, settings: MazeEnvSettings | None = None, render_mode: str | None = None):
        """Start the engine (about 0.2 s). A screen size that the engine lacks raises ValueError."""
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r} is not None or 'rgb_array'")
        self.settings = settings or MazeEnvSettings()
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": 35 / self.settings.tics_per_step}
        shape = (self.settings.height, self.settings.width, 3)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gymnasium.spaces.MultiDiscrete([3] * len(BUTTONS))
        self._engine = self._start()
        self.maze_map: MazeMap | None = None
        self._screen: np.ndarray | None = None
        self._seed = 0
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[np.ndarray, "height width 3"], dict[str, Any]]:
        """Start an episode (about 8 ms).

        Options: `map_seed` (integer >= 0) and `spawn` (x, y in map units, yaw in degrees, all integers); what is
        not given is drawn from the seed. `info["seed"]` gives this episode again, also where no seed was given.
        """
        screen, info = self.reset_screen(seed=seed, options=options)
        return self.frame_of(screen), info

    def reset_screen(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Screen, dict[str, Any]]:
        """Like `reset`, but return the engine's screen; `frame_of` makes the frame of it, on any thread."""
        options = dict(options or {})
        unknown = sorted(set(options) - {"map_seed", "spawn"})
        if unknown:
            raise ValueError(f"option {unknown[0]!r} is not known; the options are 'map_seed' and 'spawn'")
        super().reset(seed=seed)
        self._seed = int(self.np_random.integers(1 << 31)) if seed is None else seed
        rng = np.random.Generator(np.random.PCG64(self._seed))
        map_seed = int(rng.integers(1 << 31))  # drawn always, so that the start does not depend on the option
        map_seed = _map_seed(options.get("map_seed", map_seed))
        if self.maze_map is None or self.maze_map.seed != map_seed:
            self.maze_map = MazeMap.generate(map_seed, self.settings.map)
        spawn = self.maze_map.spawn(rng)
        if "spawn" in options:
            spawn = _spawn(options["spawn"], self.maze_map)
        self._load(self.maze_map, spawn)
        self._steps = 0
        return self._observe(self.maze_map)

    def step(
        self, action: Int[np.ndarray, "factors"] | list[int] | tuple[int, ...]
    ) -> tuple[UInt8[np.ndarray, "height width 3"], float, bool, bool, dict[str, Any]]:
        """Hold an action `[move, turn, strafe]` for `tics_per_step` tics; ValueError if out of range."""
        screen, info = self.step_screen(action)
        truncated = self.settings.max_steps is not None and self._steps >= self.settings.max_steps
        return self.frame_of(screen), 0.0, False, truncated, info

    def step_screen(
        self, action: Int[np.ndarray, "factors"] | list[int] | tuple[int, ...]
    ) -> tuple[Screen, dict[str, Any]]:
        """Like `step`, but return the engine's screen; `frame_of` makes the frame of it, on any thread."""
        if self.maze_map is None:
            raise RuntimeError("no episode has begun; call reset first")
        values = [int(value) for value in action]
        if len(values) != len(BUTTONS) or not all(0 <= value <= 2 for value in values):
            raise ValueError(f"action {values} is not three integers within 0..2")
        self._advance(values)
        self._steps += 1
        return self._observe(self.maze_map)

    def frame_of(self, screen: Screen) -> UInt8[np.ndarray, "height width 3"]:
        """Return the frame that `reset` or `step` would have returned with this screen."""
        return average_frame(screen, self.settings.supersample)

    def on_one_cpu(self) -> AbstractContextManager[None]:
        """Step faster within a block, where a thread or process steps this environment and does little else.

        It keeps the calling thread and the engine on one CPU, as far as there is one for them alone.
        """
        return self._engine.on_one_cpu()

    # What another engine does in its own way.
    def _start(self) -> Any:
        scale = self.settings.supersample
        return Engine(
            MazeMap.generate(0, self.settings.map).textmap(),
            self.settings.width * scale,
            self.settings.height * scale,
            depth=self.settings.depth,
        )

    def _load(self, maze_map: MazeMap, spawn: Spawn) -> None:
        self._engine.load(maze_map.textmap(spawn), self._seed % (1 << 32))

    def _advance(self, values: list[int]) -> None:
        self._engine.advance(
            [value == side for value in values for side in (1, 2)], self.settings.tics_per_step
        )

    def _depth(self) -> Float32[np.ndarray, "height width"]:
        return nearest_depth(self._engine.look_depth(), self.settings.supersample)

    def _observe(self, maze_map: MazeMap) -> tuple[Screen, dict[str, Any]]:
        screen, pose, tic = self._engine.look()
        self._screen = screen
        info = {
            "pose": pose,
            "room": maze_map.room_at(float(pose[0]), float(pose[1])),
            "tic": tic,
            "seed": self._seed,
            "map_seed": maze_map.seed,
            "map_hash": maze_map.map_hash,
        }
        if self.settings.depth:
            info["depth"] = self._depth()
        return screen, info

    def render(self) -> UInt8[np.ndarray, "height width 3"] | None:
        """Return the last frame, or None without a render mode or before the first reset."""
        if self.render_mode is None or self._screen is None:
            return None
        return self.frame_of(self._screen)

    def close(self) -> None:
        """End the engine and delete its folder."""
        self._engine.close()


def nearest_depth(
    depth: UInt8[np.ndarray, "screen_height screen_width"], scale: int
) -> Float32[np.ndarray, "height width"]:
    """Return the nearest of scale × scale depths, in map units along the view's axis (not along the ray).

    Exact to about 8 units; walls farther than 730 units read about 734, floors and ceilings go on to 1,820.
    """
    rows = depth.reshape(-1, scale, depth.shape[1]).min(axis=1)
    # min along the short last axis would take ten times as long
    nearest = np.minimum.reduce([rows[:, start::scale] for start in range(scale)])
    first = np.interp(depth.shape[1], *DEPTH_FIRST)
    return nearest.astype(np.float32) * np.float32(DEPTH_STEP) + np.float32(first)


def _map_seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"map_seed {value!r} is not an integer >= 0")
    return int(value)


def _spawn(value: Any, maze_map: MazeMap) -> Spawn:
    try:
        x, y, yaw_deg = (int(number) for number in value)
    except (TypeError, ValueError):
        raise ValueError(f"spawn {value!r} is not three integers x, y, yaw in degrees") from None
    if not maze_map.is_inside(x, y, PLAYER_RADIUS):
        raise ValueError(f"spawn {value!r} is not inside a room, {PLAYER_RADIUS:.0f} units from its walls")
    return Spawn(x=x, y=y, yaw_deg=yaw_deg % 360)
