"""Packing and rotary phases against direct loops and against diffusers' FramePack."""

import itertools
from dataclasses import replace
from math import ceil

import pytest
import torch
from diffusers.models.transformers import transformer_hunyuan_video_framepack as framepack

from models.kernel import Kernel
from models.packer import (
    ActionEmbedding,
    HistoryPacker,
    age_features,
    pad_actions,
)
from models.rotary import (
    THETA,
    axis_frequencies,
    axis_split,
    grid_phases,
    kernel_phases,
    pad_to_multiple,
    pooled_phases,
    rotate,
)
from models.schedule import PACKED, Schedule
from models.transformer import WorldTransformer
from worldsim.presets import tiny


@pytest.mark.parametrize("head_dim", [16, 64])
def test_phases_equal_diffusers_rotary_embedding(head_dim: int) -> None:
    """Same theta, axes and order as HunyuanVideo's FramePack; it repeats each angle for its channel pairs."""
    theirs = framepack.HunyuanVideoFramepackRotaryPosEmbed(2, 1, list(axis_split(head_dim)), THETA)
    times = torch.tensor([-7.0, -3.0, -2.0, 0.0])
    cos, sin = theirs(times, 12, 16, torch.device("cpu"))
    ours = grid_phases(times, 6, 8, head_dim)
    torch.testing.assert_close(ours[0].flatten(0, 2), cos[:, ::2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours[1].flatten(0, 2), sin[:, ::2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (4, 4, 4)])
def test_pooled_phases_equal_diffusers_and_a_direct_loop(stride: tuple[int, int, int]) -> None:
    """6x8 cells do not fill 4x4 strides: the far edge is replicated, then averaged, in both."""
    times, rows, cols, head_dim = torch.arange(-8.0, 0.0), 6, 8, 16
    grids = grid_phases(times, rows, cols, head_dim)
    pooled = pooled_phases(times, rows, cols, head_dim, stride)
    for grid, ours in zip(grids, pooled, strict=True):
        padded = framepack._pad_for_3d_conv(grid.permute(3, 0, 1, 2)[None], stride)
        theirs = framepack._center_down_sample_3d(padded, stride)[0].flatten(1).T
        torch.testing.assert_close(ours, theirs)
        starts = [range(0, size, step) for size, step in zip((8, rows, cols), stride, strict=True)]
        for token, corner in enumerate(itertools.product(*starts)):
            cells = itertools.product(
                *(
                    [min(at + i, size - 1) for i in range(step)]
                    for at, step, size in zip(corner, stride, (8, rows, cols), strict=True)
                )
            )
            mean = torch.stack([grid[cell] for cell in cells]).mean(0)
            torch.testing.assert_close(ours[token], mean, atol=1e-5, rtol=1e-5)


def test_phases_belong_to_the_tokens_they_stand_beside() -> None:
    """Token order of pack and phases must agree: constant phases of each level show whose they are."""
    transformer = WorldTransformer.of(tiny().transformer)
    schedule = Schedule.parse(tiny().transformer.schedule)
    cos, sin = transformer.packer.cos, transformer.packer.sin
    assert len(cos) == schedule.tokens(12, 16)
    newest = grid_phases(torch.tensor([-2.0, -1.0]), 6, 8, 16)
    slots = grid_phases(-(22 + 2.0 * torch.arange(1, 5)), 6, 8, 16)
    torch.testing.assert_close(cos[40:136], newest[0].flatten(0, 2))
    torch.testing.assert_close(sin[40:136], newest[1].flatten(0, 2))
    torch.testing.assert_close(sin[136:], slots[1].flatten(0, 2))


def test_rotation_is_relative() -> None:
    """q(t)·k(s) depends on t − s alone: with absolute positions the model would see time pass."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 16, generator=generator) for _ in range(2))

    def product(t: float, s: float) -> torch.Tensor:
        turned = [
            rotate(x, *(phase[0, :1, 0] for phase in grid_phases(torch.tensor([at]), 1, 1, 16)))
            for x, at in ((query, t), (key, s))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(0.0, -5.0), product(3.0, -2.0))
    assert not torch.isclose(product(0.0, -5.0), product(0.0, -4.0))


def test_padding_equals_diffusers() -> None:
    """Replicated at the far ends only."""
    video = torch.randn(1, 2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pad_to_multiple(video, (2, 4, 4)), framepack._pad_for_3d_conv(video, (2, 4, 4)))


def test_actions_are_summed_and_padded_with_none() -> None:
    """One row of each factor's table; what lies before the first action is "none"."""
    embedding = ActionEmbedding((3, 2), 8)
    action = torch.tensor([[2, 1]])
    expected = embedding.tables[0].weight[2] + embedding.tables[1].weight[1]
    torch.testing.assert_close(embedding(action)[0], expected)
    padded = pad_actions(action[None], 3)
    assert padded.tolist() == [[[0, 0], [0, 0], [2, 1]]]
    assert pad_actions(torch.arange(6).view(1, 3, 2), 2).tolist() == [[[2, 3], [4, 5]]]


def test_age_features_tell_ages_apart_and_stay_bounded() -> None:
    """Ages far beyond training must not leave the range that the network has seen."""
    ages = torch.tensor([[23, 24, 100, 1000, 100_000, 10_000_000]])
    features = age_features(ages)[0]
    assert bool((features.abs() <= 1).all())
    distance = torch.cdist(features, features) + torch.eye(6)
    assert float(distance.min()) > 0.05


@pytest.mark.parametrize(("present", "found"), [(1, 0), (3, 1), (7, 4), (22, 2)])
def test_absent_tokens_may_be_left_out(
    filled_transformer: WorldTransformer, a_history, present: int, found: int
) -> None:
    """Play drops absent tokens, training masks them: both must be the same network."""
    history = a_history(batch=1, present=present, found=found)
    actions = torch.randint(3, (1, 23, 3), generator=torch.Generator().manual_seed(1))
    noisy = torch.randn(1, 1, 4, 12, 16, generator=torch.Generator().manual_seed(2))
    masked = filled_transformer.pack(history)
    short = masked.without_absent()
    assert short.tokens.shape[1] == int(masked.present.sum()) < masked.tokens.shape[1]
    velocities = [
        filled_transformer.denoise(
            noisy, torch.tensor([0.7]), actions, filled_transformer.encode_history(pack, history.sigma)
        )
        for pack in (masked, short)
    ]
    torch.testing.assert_close(*velocities, rtol=1e-4, atol=1e-4)


def test_only_whole_groups_are_present(filled_transformer: WorldTransformer, a_history) -> None:
    """The pack and the schedule's own account of an early history must agree."""
    schedule = filled_transformer.schedule
    for present in range(23):
        pack = filled_transformer.pack(a_history(batch=1, present=present, found=0))
        tokens = [
            int(group[0] <= present) * count
            for groups, count in zip(schedule.ages(), (4, 12, 48), strict=True)
            for group in groups
        ]
        assert int(pack.present.sum()) == sum(tokens)


def test_what_is_absent_has_no_influence(filled_transformer: WorldTransformer, a_history) -> None:
    """Padding that leaks would make a young world depend on garbage."""
    history = a_history(batch=2, present=7, found=2)
    absent = ~history.recent_present
    history.recent[absent] = 50.0
    history.recent_actions[absent] = 1
    recalled, gone = history.recalled, ~history.recalled.present
    recalled.latents[gone] = -50.0
    recalled.ages[gone] = 5
    history.recent_poses[absent] = 77.0
    recalled.poses[gone] = 77.0
    clean = a_history(batch=2, present=7, found=2)
    actions = torch.randint(3, (2, 23, 3), generator=torch.Generator().manual_seed(1))
    noisy = torch.randn(2, 1, 4, 12, 16, generator=torch.Generator().manual_seed(2))
    velocities = [
        filled_transformer.denoise(
            noisy,
            torch.tensor([0.7, 0.2]),
            actions,
            filled_transformer.encode_history(filled_transformer.pack(past), past.sigma),
        )
        for past in (clean, history)
    ]
    assert torch.equal(*velocities)


KERNELS = ["k1", "k2", "k4", "k8", "k16", "k1h8w8", "k4h4w4", "k16h2w2", "k64h1w1", "k1h2w4", "k2h1w8"]


@pytest.mark.parametrize("kernel", [Kernel.parse(text) for text in KERNELS], ids=str)
def test_phases_of_a_kernel_are_the_mean_of_its_cells(kernel: Kernel) -> None:
    """Finer than k1 or coarser: a token stands in the middle of what it covers, in units of k1 tokens."""
    times, head_dim = torch.arange(-kernel.frames, 0.0), 16
    cos, sin = kernel_phases(times, 12, 16, head_dim, kernel)
    assert len(cos) == kernel.tokens(12, 16)
    cells = min(2, kernel.rows), min(2, kernel.cols)
    frequencies = [axis_frequencies(dim) for dim in axis_split(head_dim)]
    for token, (top, left) in enumerate(
        itertools.product(range(0, 12, kernel.rows), range(0, 16, kernel.cols))
    ):
        places = itertools.product(
            times.tolist(),
            [(min(top + i, 12 - cells[0]) + cells[0] / 2) / 2 - 0.5 for i in range(0, kernel.rows, cells[0])],
            [
                (min(left + i, 16 - cells[1]) + cells[1] / 2) / 2 - 0.5
                for i in range(0, kernel.cols, cells[1])
            ],
        )
        angles = torch.stack([
            torch.cat([at * axis for at, axis in zip(place, frequencies, strict=True)]) for place in places
        ])  # fmt: skip
        torch.testing.assert_close(cos[token], angles.cos().mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(sin[token], angles.sin().mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "td_f2k1_g1",
        "td_f16k16f8k8f4k4f2k2f1k1_r1k1_g1",
        "td_f1k1h8w8f2k1h4w8f1k1h4w4f2k1h2w4f1k1_r2k1h4w4_g2",
        "td_f64k64h1w1f16k16h2w2f4k4h4w4f1k1h8w8f1k1_r1k1_g1",
        "td_f1k1f2k2f4k4f2k2f1k1_r4k1_g1",
        "td_f4k4_r4k1_g1",
        "f1k1f4k2_x_f4k2f1k1_g1",
        "f1k1_tc_f4k4f1k1_r2k1_g1",
        "ta_f4k4f2k1_r1k1_g2",
        "td_s4k4s2k2s1k1_f2k1_r2k1_g1",
        "x_s2k2_f1k1_g2",
        "td_f4k2f1k1_r1k1_g1_x_f1k1",
        "td_f2k1_g3_x_f4k4f2k2",
        "f1k1_x_g9_f1k1f4k2f16k4_td",
        "f1k1_x_g1_f1k1f2k2_x_f1k1",
    ],
)
def test_every_kernel_packs_and_counts(transformer_of, a_history, text: str) -> None:
    """Tokens, phases and presence must agree with the schedule's own count, and every token must matter."""
    schedule = Schedule.parse(text)
    model = transformer_of(replace(tiny().transformer, schedule=text))
    reach, found = schedule.recent_frames, schedule.recalled.frames
    tail = {"ta": 6, "tc": 1}.get(schedule.tail, 0)
    past = a_history(
        batch=1, recent=reach, recalled=found, present=reach, found=found, section=schedule.section,
        first=schedule.first_frames, tail=tail, ranked=schedule.ranked_frames,
        coming=sum(level.frames for level in schedule.coming), last=sum(level.frames for level in schedule.last),
    )  # fmt: skip
    pack = model.pack(past)
    tokens = schedule.tokens(12, 16) + ceil(tail / schedule.tail_kernel.frames)
    assert pack.tokens.shape[1] == pack.present.shape[1] == len(pack.phases.cos) == tokens
    assert pack.phases.world_cos is None or pack.phases.world_cos.shape[1] == tokens
    assert bool(pack.present.all())
    actions = torch.zeros(1, reach + schedule.section, 3, dtype=torch.int64)
    noise = torch.randn(1, schedule.section, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5])
    velocity = model.denoise(noise, sigma, actions, model.encode_history(pack, past.sigma))
    frames = [past.recent[:, 0], past.recent[:, -1]] if reach else []
    others = (past.first, past.tail, past.ranked, past.coming, past.last)
    frames += [each.latents[:, i] for each in others for i in range(each.latents.shape[1])]
    for frame in frames:
        frame += 1.0
        other = model.denoise(noise, sigma, actions, model.encode_history(model.pack(past), past.sigma))
        assert not torch.allclose(velocity, other, atol=1e-6)
        velocity = other


def test_order_in_time_of_all_parts(transformer_of, a_history) -> None:
    """What lies before and behind the section: where each token's newest frame stands, and its rotary time."""
    text = "f1k1_td_s2k2s1k1_f2k2f1k1_r1k1_g2_x_f2k1"
    model = transformer_of(replace(tiny().transformer, schedule=text, attention="causal"))
    past = a_history(
        batch=1, recent=3, present=3, recalled=1, found=1, first=1, ranked=3, last=2, section=2
    )  # fmt: skip
    for part, ages in (("recalled", [50]), ("first", [99]), ("ranked", [70, 30, 40]), ("last", [8, 9])):
        getattr(past, part).ages.copy_(torch.tensor([ages]))
    times = model.pack(past).times[0]
    expected = (
        [-2] * 12 + [-1] * 48 + [-50] * 48 + [-99] * 48 + [-30] * 12 + [-40] * 48 + [9] * 48 + [10] * 48
    )
    assert times.tolist() == expected
    slots = [(-3, -2), (-1,), (-5,), (-8,), (-14, -12), (-10,), (3,), (4,)]
    cos = model.packer.cos
    start = 0
    for slot, level in zip(slots, [lv for p in PACKED for lv in model.schedule.levels(p)], strict=False):
        for time in slot[:: level.kernel.frames]:
            group = torch.arange(
                time, time + level.kernel.frames * 2, 2 if level.kernel.frames > 1 and time < -9 else 1
            )
            group = group[: level.kernel.frames].float()
            phases = kernel_phases(group, 12, 16, 16, level.kernel)[0]
            torch.testing.assert_close(cos[start : start + len(phases)], phases)
            start += len(phases)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("td_f2k1_g9_f1k1_x", "both recent and coming"),
        ("f1k1_x_g9_f1k1f4k2_ta", "tail that is kept ahead"),
        ("td_f2k1h6w3f2k1_r4k1_g1", "odd side"),
        ("td_r4k1_g1", "neither recent nor coming"),
        ("td_f2k1_r4k2_g1", "recalled"),
    ],
)
def test_what_cannot_be_packed_is_refused(text: str, named: str) -> None:
    """A part of a schedule that is silently left out would train another model than the one asked for."""
    with pytest.raises(ValueError, match=named):
        HistoryPacker(Schedule.parse(text), 4, 12, 16, 32, 16, 8)
