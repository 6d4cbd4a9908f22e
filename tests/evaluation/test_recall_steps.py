"""What memory knows at a step of a recorded episode: the same as a real memory of the same frames."""

import numpy as np
import pytest
import torch

from retrieval.pose_graph import SETTLE_EVERY
from retrieval.whereabouts import Followed
from worldsim.evaluation.recall_steps import settled_at
from worldsim.memory import Memory
from worldsim.recall import RecallSettings


@pytest.fixture
def followed() -> Followed:
    """A walk in a circle whose steps are a little wrong, and in which the beginning is recognised."""
    generator = torch.Generator().manual_seed(0)
    time = 40
    angle = torch.arange(time) * (2 * torch.pi / 30)
    true = torch.stack((200 * angle.sin(), 200 * (1 - angle.cos()), torch.rad2deg(angle)), 1)
    poses = true.clone()
    poses[:, :2] += torch.randn(time, 2, generator=generator).cumsum(0)
    path = Followed.of_poses((poses - poses[0])[None])
    path.doubts[0, :, 1] = torch.arange(time) * 2.0
    for frame in (30, 31, 36):
        path.sighted[0, frame, 0] = frame - 30
        path.offsets[0, frame, 0] = true[frame, :2] - true[frame - 30, :2]
        path.variances[0, frame, 0] = 1.0
    return path


def memory_at(followed: Followed, time: int) -> Memory:
    """A memory that has seen the frames before `time`, all at once, and settled with the last multiple."""
    memory = Memory((4, 2, 2), 3, 8, "place", RecallSettings(), torch.device("cpu"))
    known = time - time % SETTLE_EVERY
    shift = torch.zeros(2)
    for first, stop in ((0, known), (known, time)):
        part = followed.each(lambda value, first=first, stop=stop: value[:, first:stop].clone())
        part.poses[..., :2] += shift
        count = stop - first
        if count:
            keys = np.zeros((count, 8), np.float32)
            actions = torch.zeros(count, 3, dtype=torch.int64)
            shift = memory.append(torch.zeros(count, 4, 2, 2), actions, part, keys)
    return memory


@pytest.mark.parametrize("time", [20, 32, 35, 39])
def test_places_are_those_of_a_memory(followed: Followed, time: int) -> None:
    """Also where nothing was recognised yet (20), and where frames came after places last settled (35, 39)."""
    poses, expected = settled_at(followed, [10, time])
    torch.testing.assert_close(poses[1, :time], memory_at(followed, time).poses[:time])
    shift = poses[1, time - 1, :2] - followed.poses[0, time - 1, :2]
    torch.testing.assert_close(expected[1, :2], followed.expected[0, time, :2] + shift)
    assert torch.equal(expected[:, 2], followed.expected[0, [10, time], 2])
    assert (float(shift.norm()) > 0.5) == (time >= 32)
    assert torch.equal(poses[0], followed.poses[0])
