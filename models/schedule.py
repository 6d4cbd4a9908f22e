"""FramePack's schedule: which history frame goes through which kernel. Index arithmetic only, no weights."""

import re
from dataclasses import dataclass
from math import ceil

_GROUP = re.compile(r"([fr])([1-9]\d*)k(\d+)")


@dataclass(frozen=True)
class Kernel:
    """Patchify kernel in latent cells; the paper's kN is N times (1, 2, 2) along every axis (FramePack, table 1)."""

    frames: int
    rows: int
    cols: int

    @classmethod
    def of_rate(cls, rate: int) -> "Kernel":
        """k1 = (1, 2, 2), k2 = (2, 4, 4), k4 = (4, 8, 8)."""
        if rate not in (1, 2, 4):
            raise ValueError(f"kernel k{rate} is not supported; use k1, k2 or k4")
        return cls(frames=rate, rows=2 * rate, cols=2 * rate)

    @property
    def rate(self) -> int:
        return self.frames

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Token rows and columns of one group of frames whose latents are `height` x `width` cells."""
        return ceil(height / self.rows), ceil(width / self.cols)


@dataclass(frozen=True)
class Level:
    """`frames` consecutive history frames that pass through one kernel, in groups of `kernel.frames`."""

    frames: int
    kernel: Kernel

    @property
    def groups(self) -> int:
        return self.frames // self.kernel.frames


@dataclass(frozen=True)
class Schedule:
    """A parsed schedule string such as `td_f16k4f4k2f2k1_r4k1_g1`.

    `recent` lists the levels of the recent past oldest first; `recalled` is the level of frames that memory picks;
    `section` is the number S of frames made at once. The tail beyond the schedule is deleted (`td`).
    """

    recent: tuple[Level, ...]
    recalled: Level
    section: int

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Read the paper's notation: `td`, then `fNkM…` oldest to newest, our `rNkM`, then `gN`.

        Raises ValueError that names the token.
        """
        parts = text.split("_")
        if len(parts) != 4 or parts[0] != "td":
            raise ValueError(
                f"schedule {text!r} is not of the form td_fNkM…_rNkM_gN; e.g. td_f16k4f4k2f2k1_r4k1_g1"
            )
        recent = tuple(_levels(parts[1], "f", text))
        rates = [level.kernel.rate for level in recent]
        if rates != sorted(rates, reverse=True) or rates[-1:] != [1]:
            raise ValueError(
                f"token {parts[1]!r} of schedule {text!r} does not grow finer up to k1; e.g. f16k4f4k2f2k1"
            )
        recalled = list(_levels(parts[2], "r", text))
        if len(recalled) != 1 or recalled[0].kernel.rate != 1:
            raise ValueError(f"token {parts[2]!r} of schedule {text!r} is not one rNk1; e.g. r4k1")
        if not re.fullmatch(r"g[1-9]\d*", parts[3]):
            raise ValueError(
                f"token {parts[3]!r} of schedule {text!r} is not gN with N of at least 1; e.g. g1"
            )
        return cls(recent=recent, recalled=recalled[0], section=int(parts[3][1:]))

    def __str__(self) -> str:
        recent = "".join(f"f{level.frames}k{level.kernel.rate}" for level in self.recent)
        return f"td_{recent}_r{self.recalled.frames}k1_g{self.section}"

    @property
    def recent_frames(self) -> int:
        """How many of the newest history frames the schedule reaches."""
        return sum(level.frames for level in self.recent)

    def tokens(self, height: int, width: int) -> int:
        """Length of the context, whatever the length of the history."""
        total = 0
        for level in (*self.recent, self.recalled):
            rows, cols = level.kernel.token_grid(height, width)
            total += level.groups * rows * cols
        return total

    def ages(self) -> list[list[tuple[int, ...]]]:
        """Per recent level its groups of frame ages, oldest first; age 1 is the frame just before the section."""
        age = self.recent_frames
        levels = []
        for level in self.recent:
            groups = []
            for _ in range(level.groups):
                groups.append(tuple(range(age, age - level.kernel.frames, -1)))
                age -= level.kernel.frames
            levels.append(groups)
        return levels

    def frames_used(self, history_length: int) -> list[int]:
        """Frame numbers (oldest first) that reach the context from a history of that length, tail deleted.

        Early in a world a group is used only when all its frames exist: nothing is made up for the missing ones.
        """
        used: list[int] = []
        for groups in self.ages():
            for group in groups:
                if group[0] <= history_length:
                    used.extend(history_length - age for age in group)
        return used


def _levels(part: str, letter: str, text: str) -> list[Level]:
    position, levels = 0, []
    while position < len(part):
        match = _GROUP.match(part, position)
        if match is None or match[1] != letter:
            raise ValueError(f"token {part[position:]!r} of schedule {text!r} is not {letter}NkM")
        level = Level(frames=int(match[2]), kernel=Kernel.of_rate(int(match[3])))
        if level.frames % level.kernel.frames:
            raise ValueError(
                f"token {match[0]!r} of schedule {text!r}: {level.frames} frames do not fill groups of "
                f"{level.kernel.frames}"
            )
        levels.append(level)
        position = match.end()
    return levels
