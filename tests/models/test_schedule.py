"""The FramePack schedule: index arithmetic against plain statements of what it promises."""

import pytest

from models.schedule import Kernel, Schedule

DEFAULT = "td_f16k4f4k2f2k1_r4k1_g1"
SCHEDULES = [DEFAULT, "td_f16k4f8k2f4k1_r8k1_g1", "td_f1k1_r1k1_g4", "td_f8k4f8k1_r2k1_g12"]


@pytest.mark.parametrize("text", SCHEDULES)
def test_text_survives_parsing(text: str) -> None:
    """Checkpoints hold schedules as text: what is written must come back the same."""
    assert str(Schedule.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("f2k1_r4k1_g1", "'f2k1_r4k1_g1'"),
        ("ta_f2k1_r4k1_g1", "'ta_f2k1_r4k1_g1'"),
        ("td_f2k1_r4k1", "'td_f2k1_r4k1'"),
        ("td_f2k1x_r4k1_g1", "'x'"),
        ("td_r2k1_r4k1_g1", "'r2k1'"),
        ("td_f6k4_r4k1_g1", "'f6k4'"),
        ("td_f8k8_r4k1_g1", "k8"),
        ("td_f2k1_r4k2_g1", "'r4k2'"),
        ("td_f2k1_r4k1r4k1_g1", "'r4k1r4k1'"),
        ("td_f2k1__g1", "''"),
        ("td_f2k1_r4k1_g0", "'g0'"),
        ("td_f2k1_r4k1_g", "'g'"),
        ("td__r4k1_g1", "''"),
        ("td_f4k4_r4k1_g1", "'f4k4'"),
        ("td_f2k1f4k2_r4k1_g1", "'f2k1f4k2'"),
        ("td_f0k1_r4k1_g1", "'f0k1'"),
        ("td_f2k1_r0k1_g1", "'r0k1'"),
    ],
)
def test_errors_name_the_token(text: str, named: str) -> None:
    """A schedule that is read with a token silently dropped trains another model than the one asked for."""
    with pytest.raises(ValueError, match=r"schedule|kernel") as caught:
        Schedule.parse(text)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", SCHEDULES)
def test_ages_partition_the_recent_past(text: str) -> None:
    """Every recent frame enters once, oldest first: a frame twice or never is a hole in the model's past."""
    schedule = Schedule.parse(text)
    ages = schedule.ages()
    flat = [age for level in ages for group in level for age in group]
    assert flat == list(range(schedule.recent_frames, 0, -1))
    for level, groups in zip(schedule.recent, ages, strict=True):
        assert len(groups) == level.groups
        assert {len(group) for group in groups} == {level.kernel.frames}


@pytest.mark.parametrize("text", SCHEDULES)
def test_early_history_uses_whole_groups_only(text: str) -> None:
    """A group with a missing frame would average in made-up content."""
    schedule = Schedule.parse(text)
    for length in range(schedule.recent_frames + 5):
        used = set(schedule.frames_used(length))
        assert used <= set(range(length))
        for group in (group for groups in schedule.ages() for group in groups):
            frames = {length - age for age in group}
            assert frames <= used if min(frames) >= 0 else not frames & used
        assert len(schedule.frames_used(length)) == len(used)


def test_long_history_is_cut_at_the_tail() -> None:
    """`td`: however long the world, the context holds its newest frames and costs the same."""
    schedule = Schedule.parse(DEFAULT)
    for length in (22, 23, 1000, 10**6):
        assert schedule.frames_used(length) == list(range(length - 22, length))


def test_token_counts() -> None:
    """16 frames k4: 4 groups of 2x2; 4 frames k2: 2 of 3x4; 2 frames and 4 recalled at k1: 6 of 6x8."""
    assert Schedule.parse(DEFAULT).tokens(12, 16) == 4 * 4 + 2 * 12 + 2 * 48 + 4 * 48 == 328
    assert Schedule.parse("td_f4k4f1k1_r1k1_g1").tokens(24, 32) == 3 * 4 + 2 * 12 * 16


def test_kernels_grow_along_every_axis() -> None:
    """FramePack, table 1: k2 = (2, 4, 4), k4 = (4, 8, 8); partial patches count whole."""
    assert [Kernel.of_rate(rate) for rate in (1, 2, 4)] == [
        Kernel(1, 2, 2), Kernel(2, 4, 4), Kernel(4, 8, 8)
    ]  # fmt: skip
    assert Kernel.of_rate(4).token_grid(12, 16) == (2, 2)
    assert Kernel.of_rate(4).token_grid(8, 17) == (1, 3)
