"""FramePack's schedule: which frame goes through which kernel. Index arithmetic only, no weights."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

from models.kernel import Kernel, Level

Tail = Literal["td", "ta", "tc"]
Part = Literal["recent", "recalled", "first", "ranked", "coming", "last", "tail"]
PACKED: tuple[Part, ...] = ("recent", "recalled", "first", "ranked", "coming", "last")
"""the parts that have levels, in the order of their tokens"""

NOTHING = Level(frames=0, kernel=Kernel.of_rate(1))

_EXAMPLE = "e.g. td_f16k4f4k2f2k1_r4k1_g1, td_f2k1_g9_x_f1k1 or f1k1_x_g9_f2k1_td"
_LEVEL = re.compile(r"([frs])([1-9]\d*)(k[1-9]\d*(?:h[1-9]\d*w[1-9]\d*)?)")
_SECTION = re.compile(r"g[1-9]\d*")
_BEFORE = (
    "f", "fr", "tf", "tfr", "tr", "ftf", "ftfr", "fxf", "fxfr", "fx", "fxr", "xf", "xfr", "xr",
    "tsf", "tsfr", "ftsf", "ftsfr", "fxsf", "fxsfr", "xsf", "xsfr",
)  # fmt: skip
_AFTER = ("", "ft", "fx", "xf", "fxf", "ftf")
"""what may stand before and after the section: (t)ail, (f)rames, (r)ecalled frames, (s)orted ones, (x) frames skipped"""


@dataclass(frozen=True)
class Slot:
    """A group of frames that becomes tokens together."""

    part: Part
    kernel: Kernel | None
    """None: a tail that is dropped"""
    frames: tuple[int, ...]
    """numbers, oldest first"""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A parsed schedule string such as `td_f16k4f4k2f2k1_r4k1_g1`, in the paper's notation; every part oldest first.

    `first_x_…` are frames kept from the very beginning (an important start, the first frame of inverted sampling),
    `…_x_last` those of a planned end, `recent` and `coming` those next to the section on either side.
    """

    section: int
    """S, frames made at once"""
    recent: tuple[Level, ...] = ()
    recalled: Level = NOTHING
    """frames that memory picks, far apart, best first"""
    ranked: tuple[Level, ...] = ()
    """frames before the recent ones in the order of their importance instead of their times, the best last"""
    first: tuple[Level, ...] = ()
    coming: tuple[Level, ...] = ()
    last: tuple[Level, ...] = ()
    tail: Tail | None = None
    """what becomes of frames beyond the levels: deleted, appended (a cell each) or compressed (one cell for all)"""
    tail_ahead: bool = False
    """the tail comes after the section, as in inverted sampling"""
    discretised: bool = False
    """history is replaced by its nearest codes (`+D`)"""
    text: str = ""
    """as it was written"""

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Read the paper's notation: tail, `fNkM…` oldest to newest, our `rNkM` and `sNkM…`, `gN`, what is known behind it.

        Raises ValueError that names the token.
        """
        tokens = text.removesuffix("+D").split("_")
        places = [i for i, token in enumerate(tokens) if _SECTION.fullmatch(token)]
        if len(places) != 1:
            raise ValueError(
                f"schedule {text!r} has {len(places)} tokens gN with N of at least 1, not one; e.g. td_f2k2f1k1_g1"
            )
        before = _Side.read(tokens[: places[0]], _BEFORE, text)
        after = _Side.read(tokens[places[0] + 1 :], _AFTER, text)
        if before.kinds in ("f", "fr"):
            raise ValueError(
                f"schedule {text!r} begins with token {tokens[0]!r} and does not say what becomes of older frames; "
                f"begin with td, ta, tc or x, {_EXAMPLE}"
            )
        if before.tail and after.tail:
            raise ValueError(f"token {after.tail!r} of schedule {text!r} is a second tail; keep one")
        inner = before.kinds.removesuffix("r")
        framed = inner.endswith("f")
        return cls(
            section=int(tokens[places[0]][1:]),
            first=before.runs[0] if inner.startswith("f") else (),
            recent=before.runs[-1] if framed else (),
            recalled=before.recalled,
            ranked=before.ranked,
            coming=after.runs[0] if after.kinds.startswith("f") else (),
            last=after.runs[-1] if after.kinds.endswith("f") else (),
            tail=before.tail or after.tail,
            tail_ahead=after.tail is not None,
            discretised=text.endswith("+D"),
            text=text,
        )

    def __str__(self) -> str:
        return self.text

    @property
    def recent_frames(self) -> int:
        """How many of the newest history frames the schedule reaches."""
        return _frames(self.recent)

    @property
    def first_frames(self) -> int:
        """How many frames of the very beginning the schedule keeps."""
        return _frames(self.first)

    @property
    def tail_kernel(self) -> Kernel:
        """Of the level next to the tail, through which frames beyond the levels go."""
        return self.recent[0].kernel if self.recent else Kernel.of_rate(1)

    @property
    def ranked_frames(self) -> int:
        """How many frames enter in the order of their importance."""
        return _frames(self.ranked)

    def levels(self, part: Part) -> tuple[Level, ...]:
        """Of one of the packed parts, in the order of their tokens."""
        if part == "recalled":
            return (self.recalled,) if self.recalled.frames else ()
        return {
            "recent": self.recent, "first": self.first, "ranked": self.ranked, "coming": self.coming, "last": self.last,
        }[part]  # fmt: skip

    def frames(self, part: Part) -> int:
        """How many frames one of the packed parts has."""
        return _frames(self.levels(part))

    def tokens(self, height: int, width: int) -> int:
        """Length of the context once every level is full, its tail left out, whatever the length of the history."""
        levels = [level for part in PACKED for level in self.levels(part)]
        return sum(level.groups * level.kernel.tokens(height, width) for level in levels)

    def ages(self) -> list[list[tuple[int, ...]]]:
        """Per recent level its groups of frame ages, oldest first; age 1 is the frame just before the section."""
        reach = self.recent_frames
        return [
            [tuple(reach - number for number in group) for group in groups]
            for groups in _numbered(self.recent, 0)
        ]

    def frames_used(self, history_length: int) -> list[int]:
        """Frame numbers that reach the context from a history of that length, through the recent levels.

        Early in a world a group is used only when all its frames exist: nothing is made up for the missing ones.
        """
        return self._used(history_length, "recent")

    def first_used(self, history_length: int) -> list[int]:
        """Frame numbers of the very beginning that reach the context because it is the beginning."""
        return self._used(history_length, "first")

    def _used(self, history_length: int, part: Part) -> list[int]:
        slots = self._levels(history_length, 0)
        return [number for slot in slots if slot.part == part for number in slot.frames]

    def slots(self, before: int, after: int = 0) -> list[Slot]:
        """What becomes of every known frame: `before` of them lie before the section, `after` behind it, in order.

        Frames are numbered along the whole video: the section's are before … before + section − 1. Every frame is
        used at most once; the section's neighbours choose first, and groups that lack a frame are left out. Frames
        skipped by `x` are in no slot.
        """
        chosen = self._levels(before, after)
        begin, end = before + self.section, before + self.section + after
        taken = {number for slot in chosen for number in slot.frames}
        chosen += self._tail(taken, range(begin, end) if self.tail_ahead else range(before))
        return sorted(chosen, key=lambda slot: slot.frames)

    def _levels(self, before: int, after: int) -> list[Slot]:
        """The slots of all levels; costs the same however many frames there are."""
        begin, end = before + self.section, before + self.section + after
        taken: set[int] = set()
        chosen: list[Slot] = []
        for part, levels, start, known in (
            ("recent", self.recent, before - _frames(self.recent), range(before)),
            ("first", self.first, 0, range(before)),
            ("coming", self.coming, begin, range(begin, end)),
            ("last", self.last, end - _frames(self.last), range(begin, end)),
        ):
            for level, groups in zip(levels, _numbered(levels, start), strict=True):
                for group in groups:
                    if all(number in known and number not in taken for number in group):
                        taken.update(group)
                        chosen.append(Slot(part, level.kernel, group))  # type: ignore[arg-type]
        return chosen

    def _tail(self, taken: set[int], known: range) -> list[Slot]:
        """Frames beyond the levels next to the section, where the schedule has a tail for them."""
        levels = self.coming if self.tail_ahead else self.recent
        reach = _frames(levels)
        beyond = known[reach:] if self.tail_ahead else known[: max(0, len(known) - reach)]
        left = tuple(number for number in beyond if number not in taken)
        if self.tail is None or not left:
            return []
        if self.tail == "td" or not levels:
            return [Slot("tail", None, left)]
        nearest = levels[-1 if self.tail_ahead else 0].kernel
        size = nearest.frames if self.tail == "ta" else len(left)
        return [Slot("tail", nearest, left[i : i + size]) for i in range(0, len(left), size)]


@dataclass(frozen=True)
class _Side:
    """What a schedule says of the frames on one side of the section."""

    kinds: str
    runs: tuple[tuple[Level, ...], ...]
    recalled: Level
    ranked: tuple[Level, ...]
    tail: Tail | None

    @classmethod
    def read(cls, tokens: list[str], allowed: tuple[str, ...], text: str) -> "_Side":
        """ValueError names the first token that does not fit."""
        kinds, runs, recalled, tail = "", [], NOTHING, None
        ranked: tuple[Level, ...] = ()
        for token in tokens:
            kind = "t" if token in get_args(Tail) else token[:1].replace("t", "?")
            kinds += kind
            if not any(each.startswith(kinds) for each in allowed):
                raise ValueError(f"token {token!r} of schedule {text!r} does not belong there; {_EXAMPLE}")
            if kind == "t":
                tail = cast(Tail, token)
            elif kind == "f":
                runs.append(_levels(token, "f", text))
            elif kind == "s":
                ranked = _levels(token, "s", text)
            elif kind == "r":
                levels = _levels(token, "r", text)
                if len(levels) > 1:
                    raise ValueError(f"token {token!r} of schedule {text!r} is not one rNkM; e.g. r4k1")
                recalled = levels[0]
            elif token != "x":
                raise ValueError(f"token {token!r} of schedule {text!r} is not x; {_EXAMPLE}")
        if kinds not in allowed:
            raise ValueError(f"schedule {text!r} ends too early after {'_'.join(tokens)!r}; {_EXAMPLE}")
        return cls(kinds=kinds, runs=tuple(runs), recalled=recalled, ranked=ranked, tail=tail)


def _levels(token: str, letter: str, text: str) -> tuple[Level, ...]:
    position, levels = 0, []
    while position < len(token):
        match = _LEVEL.match(token, position)
        if match is None or match[1] != letter:
            raise ValueError(f"token {token[position:]!r} of schedule {text!r} is not {letter}NkM")
        level = Level(frames=int(match[2]), kernel=Kernel.parse(match[3]))
        if level.frames % level.kernel.frames:
            raise ValueError(
                f"token {match[0]!r} of schedule {text!r}: {level.frames} frames do not fill groups of "
                f"{level.kernel.frames}"
            )
        levels.append(level)
        position = match.end()
    return tuple(levels)


def _frames(levels: Iterable[Level]) -> int:
    return sum(level.frames for level in levels)


def _numbered(levels: Iterable[Level], start: int) -> list[list[tuple[int, ...]]]:
    """Per level its groups of consecutive numbers from `start` on."""
    numbered = []
    for level in levels:
        size = level.kernel.frames
        numbered.append(
            [tuple(range(first, first + size)) for first in range(start, start + level.frames, size)]
        )
        start += level.frames
    return numbered
