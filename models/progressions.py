"""Progressions: how importance falls along the history, as levels for a schedule (FramePack, section 3.1 and figure 1)."""

from collections.abc import Sequence
from typing import Literal

from models.kernel import Kernel, Level
from models.schedule import Schedule, Tail

Levels = tuple[Level, ...]
"""oldest first, as schedules have them"""

IMPORTANT_START: Levels = (Level(frames=1, kernel=Kernel.of_rate(1)),)
"""the video's first frame at full resolution as well: the `first` of `compose`"""


def bound_of(ratio: float) -> float:
    """λ / (λ − 1): frames' worth of tokens of an endless history whose frames each get 1/λ of the newer one's."""
    if ratio <= 1:
        raise ValueError(f"ratio {ratio} is not above 1: the context would grow with the history")
    return ratio / (ratio - 1)


def geometric_progression(bound: float = 2.0, depth: int = 5) -> Levels:
    """Single frames of 1, 1/2, 1/4, … of a k1 frame's tokens, some terms doubled or dropped so that they add up to `bound`.

    The paper's way to any λ: 2 = 1 + 1/2 + 1/4 + … is λ = 2, and 2.625 = 2 + 1/2 + 1/8 doubles two terms. `depth` is the
    number of powers, so the sum is exact to 2^(1 − depth). Kernels grow in height and width by turns: (1, 2, 2),
    (1, 2, 4), (1, 4, 4), …. ValueError unless 1 ≤ bound and 1 ≤ depth.
    """
    if bound < 1 or depth < 1:
        raise ValueError(
            f"bound {bound} is below one frame or depth {depth} below 1; the newest frame stays whole"
        )
    unit = 2 ** (depth - 1)
    # In units of the smallest power; the endless rest of the series counts as that power once more.
    beyond = max(round((bound - 2) * unit), 1 - unit)
    sign = -1 if beyond < 0 else 1
    wholes, bits = divmod(abs(beyond), unit)
    copies = [1 + sign * (bits >> (depth - 1 - power) & 1) for power in range(depth)]
    copies[0] += wholes
    levels = [
        Level(copies[power], Kernel(1, 2 * 2 ** (power // 2), 2 * 2 ** ((power + 1) // 2)))
        for power in range(depth)
    ]
    return _oldest_first(levels)


def temporal_level_duplication(groups: Sequence[int]) -> Levels:
    """`groups[i]` tensors of 2^i neighbouring frames through k(2^i): (1, 2, 4) is f16k4f4k2f1k1, the paper's default."""
    return _oldest_first([Level(count * 2**i, Kernel.of_rate(2**i)) for i, count in enumerate(groups)])


def level_duplication(frames: Sequence[int]) -> Levels:
    """`frames[i]` single frames through a kernel that is alike in height and width, (1, 2^(i+1), 2^(i+1))."""
    return _oldest_first(
        [Level(count, Kernel(1, 2 ** (i + 1), 2 ** (i + 1))) for i, count in enumerate(frames)]
    )


def mirrored(levels: Levels) -> Levels:
    """A symmetric progression's beginning: the video's first frames as important as its newest (`first` of `compose`)."""
    return levels[::-1]


def compose(
    recent: Levels,
    section: int,
    *,
    first: Levels = (),
    recalled: int = 0,
    tail: Tail | Literal["x"] = "td",
    discretised: bool = False,
) -> Schedule:
    """The schedule of these levels, made by way of its string; `recalled` frames go through k1."""
    parts = [
        _token("f", first) if first else "",
        tail,
        _token("f", recent),
        f"r{recalled}k1" if recalled else "",
        f"g{section}",
    ]
    return Schedule.parse("_".join(part for part in parts if part) + ("+D" if discretised else ""))


def _oldest_first(levels: Sequence[Level]) -> Levels:
    """Newest first, as importance falls, turned round; dropped levels left out."""
    return tuple(level for level in reversed(levels) if level.frames)


def _token(letter: str, levels: Levels) -> str:
    return letter + letter.join(str(level) for level in levels)
