"""The FramePack schedule: index arithmetic against plain statements of what it promises."""

import pytest

from models.kernel import Kernel
from models.schedule import Schedule

DEFAULT = "td_f16k4f4k2f2k1_r4k1_g1"
SCHEDULES = [DEFAULT, "td_f16k4f8k2f4k1_r8k1_g1", "td_f1k1_r1k1_g4", "td_f8k4f8k1_r2k1_g12"]
PAPER = [
    "td_f16k4f2k2f1k1_g9",
    "td_f16k4f4k2f1k1_g9",
    "td_f16k4f4k2f1k1_g9_x_f1k1",
    "f1k1_x_g9_f1k1f4k2f16k4_td",
    "ta_f16k4f2k2f1k1_g9",
    "tc_f16k4f2k2f1k1_g9+D",
    "f1k1_x_f16k4f2k2f1k1_g1",
    "f1k1_ta_f16k4f2k2f1k1_g1",
    "td_f1k1f2k2f4k4f2k2f1k1_g1",
    "td_f1k1h8w8f4k4h4w4f16k16h2w2f64k64h1w1f1k1_g1",
    "x_f4k1_r4k2_g2",
]


@pytest.mark.parametrize("text", SCHEDULES)
def test_text_survives_parsing(text: str) -> None:
    """Checkpoints hold schedules as text: what is written must come back the same."""
    assert str(Schedule.parse(text)) == text


@pytest.mark.parametrize("text", PAPER)
def test_the_papers_strings_are_read(text: str) -> None:
    """Everything that FramePack's notation can say, whether our model can pack it or not."""
    assert str(Schedule.parse(text)) == text


def test_parts_of_inverted_and_endpoint_sampling() -> None:
    """The string also says the sampling: what is known behind the section, and from the very beginning."""
    inverted = Schedule.parse("f1k1_x_g9_f1k1f4k2f16k4_td")
    assert [str(level) for level in (*inverted.first, *inverted.coming)] == ["1k1", "1k1", "4k2", "16k4"]
    assert inverted.tail_ahead
    assert (inverted.section, inverted.recent, inverted.last) == (9, (), ())
    planned = Schedule.parse("ta_f16k4f4k2f1k1_g9_x_f1k1+D")
    assert [str(level) for level in (*planned.recent, *planned.last)] == ["16k4", "4k2", "1k1", "1k1"]
    assert planned.discretised
    assert (planned.tail, planned.tail_ahead, planned.first, planned.coming) == ("ta", False, (), ())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("f2k1_r4k1_g1", "'f2k1'"),
        ("te_f2k1_r4k1_g1", "'te'"),
        ("td_f2k1_r4k1", "'td_f2k1_r4k1'"),
        ("td_f2k1x_r4k1_g1", "'x'"),
        ("td_r2k1_r4k1_g1", "'r4k1'"),
        ("td_f6k4_r4k1_g1", "'f6k4'"),
        ("td_f8k8h8_r4k1_g1", "'h8'"),
        ("td_f2k1_r4k1r4k1_g1", "'r4k1r4k1'"),
        ("td_f2k1__g1", "''"),
        ("td_f2k1_r4k1_g0", "'td_f2k1_r4k1_g0'"),
        ("td__r4k1_g1", "''"),
        ("td_f0k1_r4k1_g1", "'f0k1'"),
        ("td_f2k1_r0k1_g1", "'r0k1'"),
        ("td_f2k1_g1_g1", "2 tokens gN"),
        ("td_f2k1_g1_f1k1_td", "'td'"),
        ("td_f2k1_g1_f1k1", "'f1k1'"),
        ("x_x_f2k1_g1", "'x'"),
        ("f1k1_x_g9_r1k1", "'r1k1'"),
        ("td_f2k1_g1+E", "'td_f2k1_g1+E'"),
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


@pytest.mark.parametrize("text", [*SCHEDULES, *PAPER])
def test_every_frame_is_used_at_most_once_and_in_order(text: str) -> None:
    """A frame twice or out of order gives the model another past than the player's; the rest is what `x` skips."""
    schedule = Schedule.parse(text)
    for before in range(48):
        for after in (0, 1, 7, 40):
            slots = schedule.slots(before, after)
            numbers = [number for slot in slots for number in slot.frames]
            assert numbers == sorted(set(numbers))
            assert all(n < before or before + schedule.section <= n for n in numbers)
            assert all(n < before + schedule.section + after for n in numbers)
            for slot in slots:
                assert slot.part == "tail" or slot.kernel is None or len(slot.frames) == slot.kernel.frames
                assert list(slot.frames) == list(range(slot.frames[0], slot.frames[0] + len(slot.frames)))


@pytest.mark.parametrize("text", [text for text in [*SCHEDULES, *PAPER] if "ta" not in text])
def test_context_is_bounded(text: str) -> None:
    """FramePack's promise: whatever the history's length, the same tokens. Only appended tails grow."""
    schedule = Schedule.parse(text)
    contexts = set()
    for length in (1000, 10**4, 10**6):
        slots = schedule.slots(length, length)
        contexts.add(tuple((slot.part, slot.kernel) for slot in slots))
        used = sum(slot.kernel.tokens(12, 16) for slot in slots if slot.kernel and slot.part != "tail")
        recalled = schedule.recalled.groups * schedule.recalled.kernel.tokens(12, 16)
        assert used + recalled == schedule.tokens(12, 16)
    assert len(contexts) == 1


def test_tails() -> None:
    """Beyond 2 k2 and 1 k1 frame lie 7 of 10: dropped, in pairs through the nearest kernel, or all as one."""
    tails = {}
    for tail in ("td", "ta", "tc"):
        slots = Schedule.parse(f"{tail}_f2k2f1k1_g1").slots(10)
        assert [slot.frames for slot in slots if slot.part == "recent"] == [(7, 8), (9,)]
        tails[tail] = [(slot.frames, slot.kernel) for slot in slots if slot.part == "tail"]
    k2 = Kernel.of_rate(2)
    assert tails == {
        "td": [((0, 1, 2, 3, 4, 5, 6), None)],
        "ta": [((0, 1), k2), ((2, 3), k2), ((4, 5), k2), ((6,), k2)],
        "tc": [((0, 1, 2, 3, 4, 5, 6), k2)],
    }
    ahead = Schedule.parse("f1k1_x_g2_f1k1f2k2_ta").slots(3, 6)
    assert [(slot.part, slot.frames) for slot in ahead] == [
        ("first", (0,)), ("coming", (5,)), ("coming", (6, 7)), ("tail", (8, 9)), ("tail", (10,))
    ]  # fmt: skip


def test_neighbours_of_the_section_choose_first() -> None:
    """Early in a video the first frame is a recent one too, and the last one may be the next."""
    schedule = Schedule.parse("f1k1_x_f2k1_g1_f1k1_x_f2k1")
    parts = [(slot.part, slot.frames) for slot in schedule.slots(2, 2)]
    assert parts == [("recent", (0,)), ("recent", (1,)), ("coming", (3,)), ("last", (4,))]


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
    assert [Kernel.parse(text) for text in ("k2", "k1h2w2", "k1h8w8")] == [
        Kernel(2, 4, 4), Kernel(1, 2, 2), Kernel(1, 8, 8)
    ]  # fmt: skip
    assert [str(Kernel(*size)) for size in ((4, 8, 8), (64, 1, 1))] == ["k4", "k64h1w1"]
    assert {Kernel.parse(text).cells for text in ("k1h8w8", "k4h4w4", "k16h2w2", "k64h1w1")} == {64}
    with pytest.raises(ValueError, match="k64h1w1"):
        _ = Kernel(64, 1, 1).rate
