"""Relative poses, features of moves and world directions, against geometry done by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from models.rotary import axis_frequencies, axis_split
from models.schedule import Schedule
from models.viewpoint import (
    MOVE_FEATURES,
    column_directions_deg,
    direction_phases,
    direction_waves,
    move_features,
    relative_poses,
)
from models.world_phases import WorldPhases


def test_relative_poses_by_hand() -> None:
    """Forward and left of a player who faces north, and turns that count from there."""
    origin = torch.tensor([[10.0, 20.0, 90.0]])
    poses = torch.tensor([[[10.0, 25.0, 90.0], [7.0, 20.0, 180.0], [10.0, 19.0, 0.0]]])
    expected = torch.tensor([[[5.0, 0.0, 0.0], [0.0, 3.0, 90.0], [-1.0, 0.0, -90.0]]])
    torch.testing.assert_close(relative_poses(poses, origin), expected, atol=1e-5, rtol=0)


def test_move_features_tell_small_steps_apart_and_ignore_full_turns() -> None:
    """A unit of movement must be visible, and a heading of 725 degrees is one of 5."""
    here = torch.tensor([3.0, -40.0, 5.0])
    features = move_features(here)
    assert features.shape == (MOVE_FEATURES,)
    torch.testing.assert_close(features, move_features(here + torch.tensor([0.0, 0, 720])), atol=1e-5, rtol=0)
    for axis in range(3):
        step = torch.zeros(3)
        step[axis] = 1.0
        assert float((move_features(here + step) - features).norm()) > 0.02, axis


def test_columns_look_through_a_pinhole() -> None:
    """The middle of each column, projected on the image plane, is evenly spaced; left is positive."""
    directions = column_directions_deg(8, 90.0)
    assert torch.all(directions.diff() < 0)
    across = [math.tan(math.radians(angle)) for angle in directions.tolist()]
    np.testing.assert_allclose(across, [1 - (2 * i + 1) / 8 for i in range(8)], atol=1e-6)


def test_directions_repeat_after_a_full_turn() -> None:
    """Waves that do not close would tell how often a player has spun round."""
    angles, waves = torch.linspace(-180, 180, 17), direction_waves(32.0, 12)
    assert waves[:3].tolist() == [5, 3, 2]
    for here, again in zip(
        direction_phases(angles, waves), direction_phases(angles + 1080, waves), strict=True
    ):
        torch.testing.assert_close(here, again, atol=1e-3, rtol=0)


def test_within_a_view_directions_turn_like_columns() -> None:
    """A model trained with columns is warm-started with directions: a step to the right must not become one to the left."""
    directions = column_directions_deg(8, 90.0)
    cos, sin = direction_phases(directions, direction_waves(32.0, 12))
    columns = torch.arange(8)[:, None] * axis_frequencies(24)
    angles = torch.atan2(sin, cos)
    for between in ((3, 4), (2, 5)):
        made, wanted = (each[between[1]] - each[between[0]] for each in (angles, columns))
        apart = (made - wanted + torch.pi) % (2 * torch.pi) - torch.pi
        assert float(apart.abs().max()) < 0.9
        assert float(apart[:3].abs().max()) < 0.75


@pytest.mark.parametrize("text", ["td_f4k4f4k2f2k1_r2k1_g2", "td_f4k4h1w1f4k2h2w8f2k1h4w4_r2k1h2w4_g2"])
def test_world_phases_equal_a_loop_over_tokens(text: str) -> None:
    """Every token carries the mean phases of its own frames and columns, in the order of the pack."""
    schedule = Schedule.parse(text)
    rows, cols, dim = 6, 8, 16
    part, half = axis_split(dim)[2] // 2, dim // 2
    phases = WorldPhases(schedule, 2 * rows, 2 * cols, dim, 90.0)
    generator = torch.Generator().manual_seed(0)
    recent, recalled = (360 * torch.rand(3, count, generator=generator) for count in (10, 2))
    tokens = schedule.tokens(2 * rows, 2 * cols)
    plain = torch.randn(2, tokens, half, generator=generator)
    headings = torch.cat((recent, recalled), 1)
    cos, sin = phases.history(headings, plain[0], plain[1])
    torch.testing.assert_close(cos[1, :, : half - part], plain[0][:, : half - part])
    token, start = 0, 0
    for level in (*schedule.recent, schedule.recalled):
        size, high, wide = level.kernel.frames, level.kernel.rows, level.kernel.cols
        fine = min(2, wide)
        directions = column_directions_deg(2 * cols // fine, 90.0)
        for group in range(level.groups):
            frames = range(start + group * size, start + (group + 1) * size)
            for _, column in itertools.product(range(math.ceil(2 * rows / high)), range(2 * cols // wide)):
                seen = directions[column * wide // fine : (column + 1) * wide // fine]
                looks = torch.cat([headings[:, frame, None] + seen for frame in frames], 1)
                for made, wave in ((cos, torch.cos), (sin, torch.sin)):
                    waves = torch.tensor(
                        [5.0, 1.0, 0.0]
                    )  # of 32 columns a turn, 1, 0.157 and 0.025 radians each
                    mean = wave(-torch.deg2rad(looks)[..., None] * waves).mean(1)
                    torch.testing.assert_close(made[:, token, half - part :], mean, atol=1e-4, rtol=0)
                token += 1
        start += level.frames
    assert token == tokens


def test_a_turned_player_finds_the_direction_again() -> None:
    """A column that looks north must have the same phases whichever way the player faces."""
    phases = WorldPhases(Schedule.parse("td_f1k1_r1k1_g1"), 12, 16, 16, 90.0)
    directions = column_directions_deg(8, 90.0)
    zeros = torch.zeros(48, 8)
    ahead, _ = phases.section(torch.zeros(1, 1), zeros, zeros)
    turned, _ = phases.section((directions[1] - directions[5]).view(1, 1), zeros, zeros)
    torch.testing.assert_close(ahead[0, 1], turned[0, 5], atol=1e-4, rtol=0)
    assert not torch.allclose(ahead[0, 5], turned[0, 5], atol=0.1)
