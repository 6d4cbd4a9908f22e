"""A scripted player that knows no map: it looks round, walks away as far as it gets, and comes back the way it went."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from envs.guide import CLOSE, STILL, left_after_sliding, turning_keys
from envs.walker import step_keys, turn_key, wrap

Phase = Literal["look round", "walk away", "walk back", "turn to the first view", "stand"]
PHASES: tuple[Phase, ...] = get_args(Phase)
PAUSE = 4
"""Steps of standing before it turns."""
PATIENCE = 40
"""Steps after which a turn is given up: where a key turns by more than a view may be off, it would never end."""
FULL_TURN_DEG = 340.0
"""Degrees turned to the left after which the rest of the circle is left to single taps."""
LEG = 9
"""Steps after which another direction is taken: a room and its doorway. Imagined worlds have halls without an end, in
which the view comes no nearer; who goes on in one is lost."""
ASIDE = math.radians(50.0)
"""That direction differs from the one before by at least this."""
PLAIN = 12.0
"""Spread of colours over the middle of a view, of 255: below it a wall fills the view."""
STOPPED = 12.0
"""Map units a step along the way: slower, after STARTING steps of holding a key, something stands in the way."""
STARTING = 4
AHEAD = (50.0, 100.0, 160.0, 220.0)
"""Map units ahead at which a direction is judged."""
WALL = 45.0
"""Map units from where a player was stopped to what stopped it; also how wide that is taken to be."""
SAME = 24.0
"""Map units: places of the path nearer than this are one, and the way back leaves out what lies between."""
PURSUED = 30.0
"""Map units ahead on the way back that the player walks towards."""
DETOUR = 14
"""Steps, at most half of them turns, of a way round a wall that stands where the player came through."""
NEAR = 20.0
"""Map units: nearer to where it set out, the player is back."""


@dataclass(frozen=True, kw_only=True)
class RamblerSettings:
    """How long a ramble is, in steps."""

    away: int = 100
    """of walking away"""
    stand: int = 16
    """of standing once it is back"""

    def __post_init__(self) -> None:
        for name in ("away", "stand"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not at least 1")


class Rambler:
    """A policy from poses and views to actions `[move, turn, strafe]`; deterministic in both.

    Away, it goes where it has not been, and neither was stopped nor saw a wall near by. Back, it follows its own
    path, without the loops.
    """

    def __init__(self, settings: RamblerSettings | None = None) -> None:
        self.settings = settings or RamblerSettings()
        self.phase: Phase = "look round"
        self.done = False
        self._path: list[tuple[float, float]] = []
        self._yaws_deg: list[float] = []
        self._keys = (0, 0, 0)
        self._age = 0
        self._heading = 0.0
        self._leg = 0
        self._turned_deg = 0.0
        self._walls: list[tuple[float, float]] = []
        self._home: list[tuple[float, float]] = []
        self._before_a_wall = False
        self._detour = self._stops = 0

    def act(
        self, pose: Float32[np.ndarray, "3"], frame_u8: UInt8[np.ndarray, "height width 3"]
    ) -> Int64[np.ndarray, "3"]:
        """Return the next action for a pose (x, y in map units, heading in degrees) and the view there.

        Nothing is pressed any more once it is `done`.
        """
        x, y, yaw_deg = (float(value) for value in pose)
        if self._yaws_deg:
            self._turned_deg += math.degrees(wrap(math.radians(yaw_deg - self._yaws_deg[-1])))
        self._path.append((x, y))
        self._yaws_deg.append(yaw_deg)
        self._before_a_wall = colour_spread(frame_u8) < PLAIN
        self._keys = self._next_keys()
        self._age += 1
        return np.array(self._keys, np.int64)

    def _next_keys(self) -> tuple[int, int, int]:
        """Keys of the coming step; of the phase that follows where one has ended."""
        ways = (self._look_round, self._walk_away, self._walk_back, self._turn, self._stand)
        for phase, way in list(zip(PHASES, ways, strict=True))[PHASES.index(self.phase) :]:
            if phase != self.phase:
                self.phase, self._age, self._leg = phase, 0, 0
            if (keys := way()) is not None:
                return keys
        self.done = True
        return 0, 0, 0

    def _look_round(self) -> tuple[int, int, int] | None:
        if self._age < PAUSE:
            return 0, 0, 0
        return (0, 1, 0) if self._turned_deg < FULL_TURN_DEG and self._age < PATIENCE else self._turn()

    def _walk_away(self) -> tuple[int, int, int] | None:
        if self._age == self.settings.away:
            return None
        x, y = self._path[-1]
        stopped = self._leg >= STARTING and self._moved_along(self._heading) < STOPPED
        if stopped or (self._leg and self._before_a_wall):
            self._walls.append((x + WALL * math.cos(self._heading), y + WALL * math.sin(self._heading)))
            self._heading, self._leg = self._best_heading(ASIDE / 2), 0
        elif self._age == 0 or self._leg >= LEG:
            self._heading, self._leg = self._best_heading(ASIDE if self._age else 0.0), 0
        return self._towards(self._heading)

    def _best_heading(self, aside: float) -> float:
        """The direction, of 24, in which there is most that is new and no known wall; of equals the nearest to the view.

        At least so far aside of the view, in radians.
        """
        x, y = self._path[-1]
        yaw = math.radians(self._yaws_deg[-1])
        angles = yaw + np.arange(24) * (math.tau / 24)
        turns = np.abs((angles - yaw + math.pi) % math.tau - math.pi)
        rays = np.stack((np.cos(angles), np.sin(angles)), 1)
        ahead = np.array((x, y)) + np.array(AHEAD)[None, :, None] * rays[:, None]
        new = np.minimum(_nearest(ahead, self._path), AHEAD[-1]).mean(1)
        free = np.ones(len(angles))
        if self._walls:
            blocked = _nearest(ahead, self._walls) < WALL
            free = np.where(blocked.any(1), blocked.argmax(1) / len(AHEAD), 1.0)
        worth = np.where(turns < aside, -math.inf, free * new - 20.0 * turns)
        return float(angles[int(np.argmax(worth))])

    def _walk_back(self) -> tuple[int, int, int] | None:
        if self._age == 0:
            self._home = way_home(self._path)
        if self._age > 2 * self.settings.away:
            return None
        x, y = self._path[-1]
        # Only what comes next on the way may be skipped: a later part may pass behind a wall.
        while len(self._home) > 1 and any(math.hypot(px - x, py - y) < PURSUED for px, py in self._home[:3]):
            del self._home[0]
        dx, dy = self._home[0][0] - x, self._home[0][1] - y
        if len(self._home) == 1 and math.hypot(dx, dy) < CLOSE:
            return self._brake(dx, dy)
        heading = math.atan2(dy, dx)
        if self._detour:
            return self._go_aside()
        if self._leg >= STARTING + 2 and self._moved_along(heading) < STOPPED / 2:
            self._stops += 1
            if self._stops % 3 == 0:
                self._detour = DETOUR
                return self._go_aside()
            self._leg = -3  # aside for three steps, then on: from the place of the path where it is now
            self._home = way_home(self._path)
        if self._leg < 0:
            self._leg += 1
            side = 1 if self._stops % 2 else -1
            return step_keys(heading + side * math.pi / 2 - math.radians(self._yaws_deg[-1]), 0)
        return self._towards(heading)

    def _go_aside(self) -> tuple[int, int, int]:
        """Turn from a wall until there is something else to see, go there, and set out anew.

        An open view tells the player better where it is than a wall does.
        """
        self._detour -= 1
        if self._detour == 0:
            self._home, self._leg = way_home(self._path), 0
        if self._before_a_wall and self._detour > DETOUR // 2:
            return 0, 1 + self._stops // 3 % 2, 0
        return 1, 0, 0

    def _brake(self, dx: float, dy: float) -> tuple[int, int, int] | None:
        """Taps towards the place, each followed by sliding until the player stands; None once it stands there."""
        moved, left = self._moved(), (dx, dy)
        if any(self._keys):
            left = left_after_sliding(dx, dy, moved)
        elif math.hypot(*moved) >= STILL:
            return 0, 0, 0
        elif math.hypot(*left) < NEAR:
            return None
        if math.hypot(*left) < NEAR:
            return 0, 0, 0
        return step_keys(math.atan2(left[1], left[0]) - math.radians(self._yaws_deg[-1]), 0)

    def _turn(self) -> tuple[int, int, int] | None:
        """To the first view."""
        return (
            None
            if self._age >= PATIENCE
            else turning_keys(self._yaws_deg[0] - self._yaws_deg[-1], self._keys[1])
        )

    def _stand(self) -> tuple[int, int, int] | None:
        return None if self._age == self.settings.stand else (0, 0, 0)

    def _towards(self, heading: float) -> tuple[int, int, int]:
        """Turn that way, and walk once it is not far aside."""
        error = wrap(heading - math.radians(self._yaws_deg[-1]))
        turn = turn_key(math.degrees(error), self._keys[1], begin_deg=16.0)
        if abs(error) > math.pi / 2:
            self._leg = 0
            return 0, turn, 0
        self._leg += 1
        return step_keys(error, turn)

    def _moved(self) -> tuple[float, float]:
        if len(self._path) < 2:
            return 0.0, 0.0
        (x0, y0), (x1, y1) = self._path[-2:]
        return x1 - x0, y1 - y0

    def _moved_along(self, heading: float) -> float:
        dx, dy = self._moved()
        return dx * math.cos(heading) + dy * math.sin(heading)


def colour_spread(frame_u8: UInt8[np.ndarray, "height width 3"]) -> float:
    """How much colours differ over the middle of a view: the spread of the means of 24 patches, of 255."""
    height, width = frame_u8.shape[:2]
    rows, cols = height // 8, width // 8
    middle = frame_u8[height - 6 * rows :, 2 * cols : 6 * cols].astype(float)
    patches = middle.reshape(6, rows, 4, cols, 3).mean(axis=(1, 3))
    return float(patches.reshape(24, 3).std(axis=0).mean())


def way_home(path: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The path from its end to its beginning, without what lies between two visits of one place."""
    home, at = [], len(path) - 1
    while at > 0:
        x, y = path[at]
        first = next(i for i, (px, py) in enumerate(path) if math.hypot(px - x, py - y) < SAME)
        at = min(first, at - 1)
        home.append(path[at])
    return home or [path[0]]


def _nearest(
    points: Float[np.ndarray, "ray step 2"], places: list[tuple[float, float]]
) -> Float[np.ndarray, "ray step"]:
    """Distance of every point to the nearest of the places."""
    return np.linalg.norm(points[:, :, None] - np.array(places), axis=-1).min(-1)
