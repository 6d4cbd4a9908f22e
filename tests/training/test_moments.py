"""The beginning and the tail of moments against the schedule's own account of every frame, and against play."""

import pytest
import torch

from models.patchifier import tail_cells
from models.schedule import Schedule
from retrieval.whereabouts import Followed
from worldsim.memory import Memory
from worldsim.recall import RecallSettings
from worldsim.training.moments import Moments, first_frames, tail_frames

LENGTH = 40
SCHEDULES = ["f1k1f4k2_ta_f4k4f2k1_g1", "f1k1f4k2_tc_f4k4f2k1_g1", "ta_f4k2f1k1_g1", "f2k2_x_f4k4f1k1_g1"]


def some_latents() -> torch.Tensor:
    return torch.randn(1, LENGTH, 2, 12, 16, generator=torch.Generator().manual_seed(0)).half()


def all_moments() -> Moments:
    times = torch.arange(1, LENGTH)
    return Moments(episode=torch.zeros_like(times), time=times)


@pytest.mark.parametrize("text", SCHEDULES)
def test_first_frames_are_the_schedules(text: str) -> None:
    """Early on they are recent frames still, and must not enter twice."""
    schedule, latents, moments = Schedule.parse(text), some_latents(), all_moments()
    poses = torch.randn(1, LENGTH, 3, generator=torch.Generator().manual_seed(1))
    frames = first_frames(latents, poses, moments, schedule)
    for row, time in enumerate(moments.time.tolist()):
        kept = [n for slot in schedule.slots(time) if slot.part == "first" for n in slot.frames]
        assert frames.present[row].nonzero()[:, 0].tolist() == kept == schedule.first_used(time)
        assert (time - frames.ages[row, kept]).tolist() == kept
        assert torch.equal(frames.latents[row, kept], latents[0, kept].float())
        assert torch.equal(frames.poses[row, kept], poses[0, kept])


@pytest.mark.parametrize("text", SCHEDULES)
def test_tails_are_the_schedules(text: str) -> None:
    """Each frame beyond the levels counts once: in its group, or in the mean of all."""
    schedule, latents, moments = Schedule.parse(text), some_latents(), all_moments()
    cells = tail_cells(latents[0].float(), schedule.tail)[None]
    tail = tail_frames(cells, moments, schedule)
    size = schedule.recent[0].kernel.frames
    if schedule.tail is None:
        assert tail.latents.shape[1] == 0
        return
    for row, time in enumerate(moments.time.tolist()):
        groups = [slot.frames for slot in schedule.slots(time) if slot.part == "tail" and slot.kernel]
        there = tail.present[row].nonzero()[:, 0]
        if schedule.tail == "tc":
            assert len(there) == len(groups)
            for frames in groups:
                mean = latents[0, list(frames)].float().mean((0, 2, 3))
                torch.testing.assert_close(tail.latents[row, 0, :, 0, 0], mean, rtol=1e-4, atol=1e-5)
                assert abs(float(tail.ages[row, 0]) - (time - sum(frames) / len(frames))) <= 0.51
            continue
        expected = [n for frames in groups for n in [*frames, *[frames[-1]] * (size - len(frames))]]
        found = (time - tail.ages[row, there]).tolist()
        # Where the longest tail ends within a group, the packer goes on with its last frame.
        assert found == expected[: len(found)]
        assert len(expected) - len(found) < size
        torch.testing.assert_close(
            tail.latents[row, there, :, 0, 0], latents[0, found].float().mean((2, 3)), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("text", SCHEDULES)
def test_play_keeps_the_same_tail_as_training(text: str) -> None:
    """What the model meets at play must be what it was trained on."""
    schedule, latents = Schedule.parse(text), some_latents()
    cells = tail_cells(latents[0].float(), schedule.tail)[None]
    for time in (1, 5, 7, 12, 25, 39):
        memory = Memory((2, 12, 16), 1, 4, "off", RecallSettings(), torch.device("cpu"), tail=schedule.tail)
        path = Followed.of_poses(torch.zeros(1, time, 3))
        memory.append(latents[0, :time], torch.zeros(time, 1, dtype=torch.int64), path, None)
        kept, ages = memory.tail(len(schedule.first_used(time)), schedule.recent_frames)
        moment = Moments(episode=torch.zeros(1, dtype=torch.int64), time=torch.tensor([time]))
        tail = tail_frames(cells, moment, schedule)
        assert bool(tail.present[0, : len(ages)].all())
        assert torch.equal(tail.ages[0, : len(ages)], ages)
        torch.testing.assert_close(tail.latents[0, : len(ages)], kept, rtol=1e-3, atol=1e-4)
