"""Progressions against the paper's own sums and strings."""

from fractions import Fraction

import pytest

from models.kernel import Level
from models.progressions import (
    IMPORTANT_START,
    Levels,
    bound_of,
    compose,
    geometric_progression,
    level_duplication,
    mirrored,
    temporal_level_duplication,
)
from models.schedule import Schedule


def frames_worth(levels: Levels) -> Fraction:
    """Context in k1 frames: what the paper's sum over 1 / λ^i counts."""
    return sum((Fraction(4 * level.frames, level.kernel.cells) for level in levels), Fraction())


@pytest.mark.parametrize("depth", [1, 2, 5, 7])
@pytest.mark.parametrize("bound", [1.0, 1.5, bound_of(2.625), 2.0, 2.625, 3.0, 4.75])
def test_geometric_progressions_reach_their_bound(bound: float, depth: int) -> None:
    """The bound is that of an endless series: its cut-off rest is one smallest power, and rounding at most half of one."""
    levels = geometric_progression(bound, depth)
    smallest = Fraction(1, 2 ** (depth - 1))
    missing = Fraction(bound) - frames_worth(levels)
    assert missing == 0 if bound == 1 else abs(missing - smallest) <= smallest / 2
    assert str(levels[-1].kernel) == "k1"
    rates = [level.kernel.cells for level in levels]
    assert rates == sorted(set(rates), reverse=True)
    assert all(level.kernel.frames == 1 for level in levels)


def test_geometric_progressions_of_the_paper() -> None:
    """λ = 2 takes every power once; 2.625 = 2 + 1/2 + 1/8 takes those two twice; λ = 2.625 drops 1/4 and 1/8."""
    assert compose(geometric_progression(), 9).text == "td_f1k1h8w8f1k1h4w8f1k1h4w4f1k1h2w4f1k1_g9"
    assert compose(geometric_progression(2.625), 9).text == "td_f1k1h8w8f2k1h4w8f1k1h4w4f2k1h2w4f1k1_g9"
    assert bound_of(2.0) == 2
    assert bound_of(2.625) == pytest.approx(2.625 / 1.625)
    assert compose(geometric_progression(bound_of(2.625)), 1).text == "td_f1k1h8w8f1k1h2w4f1k1_g1"


def test_the_other_progressions() -> None:
    """Each is one of figure 1, in the notation that our schedules are written in."""
    temporal = temporal_level_duplication((1, 2, 4))
    assert compose(temporal, 9).text == "td_f16k4f4k2f1k1_g9"
    assert compose(level_duplication((1, 2, 4)), 1).text == "td_f4k1h8w8f2k1h4w4f1k1_g1"
    assert compose(temporal_level_duplication((2, 0, 1)), 1).text == "td_f4k4f2k1_g1"
    start = compose(temporal, 1, first=IMPORTANT_START, recalled=4, tail="x", discretised=True)
    assert start.text == "f1k1_x_f16k4f4k2f1k1_r4k1_g1+D"
    assert start.discretised
    symmetric = compose(temporal, 1, first=mirrored(temporal), tail="tc")
    assert symmetric.text == "f1k1f4k2f16k4_tc_f16k4f4k2f1k1_g1"
    assert symmetric == Schedule.parse(symmetric.text)


@pytest.mark.parametrize("history", [0, 1, 3, 21, 22, 42, 43, 1000])
def test_symmetric_progressions_are_symmetric(history: int) -> None:
    """Once there is room for both, the n-th frame from the beginning gets what the n-th from the end gets."""
    levels = temporal_level_duplication((1, 2, 4))
    slots = compose(levels, 1, first=mirrored(levels)).slots(history)
    kernels = {n: slot.kernel for slot in slots for n in slot.frames if slot.kernel is not None}
    assert set(kernels) <= set(range(history))
    if history >= 2 * sum(level.frames for level in levels):
        assert all(kernels.get(n) == kernels.get(history - 1 - n) for n in range(history))


def test_endless_contexts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ratio 1\.0 .*grow"):
        bound_of(1.0)
    with pytest.raises(ValueError, match=r"bound 0\.5"):
        geometric_progression(0.5)
    with pytest.raises(ValueError, match="depth 0"):
        geometric_progression(2.0, 0)
    with pytest.raises(ValueError, match="'f3k2'"):
        compose((Level(frames=3, kernel=temporal_level_duplication((0, 1))[0].kernel),), 1)
