"""Own histories that are held to the truth: drawn from it, counted everywhere, remembered as the model made them."""

from dataclasses import replace

import pytest
import torch

from models.flow import FlowSettings
from worldsim.training.held import HeldHistories
from worldsim.training.recalling import RecallMixture
from worldsim.training.self_rollout import SelfRolloutSettings


def test_held_histories_begin_with_steps_of_enough_noise() -> None:
    """Shift 0.5 of 1, 3/4, 1/2, 1/4: levels 1, 0.6, 1/3, 1/7; level 1 would leave nothing of the truth."""
    flow = FlowSettings(shift=0.5, denoising_steps=4)
    assert SelfRolloutSettings(held_noise=0.1).begins(flow) == [1, 2, 3]
    assert SelfRolloutSettings(held_noise=0.5).begins(flow) == [1]
    with pytest.raises(
        ValueError, match=r"none of the noise levels \[0.6, 0.33, 0.14\] is 0.7 or more: lower"
    ):
        SelfRolloutSettings(held_noise=0.7).begins(flow)
    assert SelfRolloutSettings(held_noise=0.7, held=0.0).begins(flow) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"held": 1.5}, "the part 1.5 of own frames that is held to the truth is not within 0..1"),
        ({"held_noise": 1.0}, "noise 1.0 of held frames is no noise level from 0 to below 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict, message: str) -> None:
    """One line names the value."""
    with pytest.raises(ValueError, match=message):
        SelfRolloutSettings(**wrong)


def test_only_so_many_are_held_each_from_its_own_step() -> None:
    """All steps asked for must come up, the free rows begin with noise alone."""
    room = torch.zeros(400, 2, 1, 1, 1)
    held = HeldHistories.draw(
        300, (2, 3, 5), torch.zeros(400, dtype=torch.int64), room, torch.Generator().manual_seed(0)
    )
    assert torch.equal(held.rows, torch.arange(400) < 300)
    counts = torch.bincount(held.begin, minlength=6).tolist()
    assert counts[0] == 100
    assert all(70 < counts[i] < 130 for i in (2, 3, 5))
    assert counts[1] == counts[4] == 0


def test_targets_of_held_histories_count_everywhere(trainer_of, training_of) -> None:
    """They show the true place: nothing that the recorded next frame shows denies them. Others' targets must be known."""
    own_frames = SelfRolloutSettings(share=0.5, after_steps=0, length=24, known=1.0, held=0.5)
    recall = RecallMixture(off=1.0, oracle=0.0, own_oracle=0.0, random=0.0)
    trainer = trainer_of(replace(training_of(batch=16, own_frames=own_frames), recall=recall))
    poses = trainer.batches.episodes.poses
    poses.copy_(1000.0 * torch.arange(poses.shape[1])[None, :, None].expand_as(poses))
    batch = trainer.batches.draw(0, trainer.processes.generator(0, 0))
    assert batch.weights.tolist() == [1.0] * 12 + [0.0] * 4


def test_held_frames_are_drawn_from_the_true_ones(trainer_of, training_of) -> None:
    """The nearer the truth they begin, the nearer they end, whatever an untrained model makes of it."""
    own_frames = SelfRolloutSettings(share=1.0, after_steps=0, length=6, held=2 / 3)
    trainer = trainer_of(training_of(batch=24, own_frames=own_frames))
    trainer.own_flow = FlowSettings(shift=0.5, denoising_steps=8)
    batch = trainer.batches.draw(0, trainer.processes.generator(0, 0))
    rollout = trainer.batches.own
    assert rollout is not None
    rollout.held.begin[:16] = torch.tensor([4] * 8 + [7] * 8)
    trainer._advance(batch.own_history, batch.actions, batch.coming, torch.Generator().manual_seed(5))
    errors = (rollout.recent[:, -1] - batch.coming[:, 0]).square().flatten(1).mean(1).view(3, 8).mean(1)
    assert float(errors[1]) < 0.2 * float(errors[0])
    assert float(errors[0]) < 0.5 * float(errors[2])


def test_memory_has_held_frames_as_the_model_made_them(trainer_of, training_of, episodes_of) -> None:
    """What was made since the history began is recalled so, seen from where play would think; what is older is the truth,
    and all that free histories recall."""
    own_frames = SelfRolloutSettings(share=0.5, after_steps=0, length=48, held=0.5)
    recall = RecallMixture(off=0.0, oracle=0.0, own_oracle=0.0, random=1.0)
    settings = replace(training_of(batch=32, own_frames=own_frames), recall=recall)
    trainer = trainer_of(settings, episodes_of(length=120))
    own = truth = 0
    poses = []
    for step in range(44):
        batch = trainer.batches.draw(step, trainer.processes.generator(0, step))
        rollout = trainer.batches.own
        assert rollout is not None
        begun = rollout.moments.time - step
        recalled = batch.own_history.recalled
        for row, slot in recalled.present.nonzero().tolist():
            number = int(rollout.moments.time[row]) - int(recalled.ages[row, slot])
            made = number - int(begun[row])
            if row < 8 and made >= 0:
                # Step `made` put this number into the frame.
                assert bool((recalled.latents[row, slot] == (made + 1) / 8).all())
                assert torch.equal(rollout.held.poses[row, made], poses[made][row])
                own += 1
            else:
                there = trainer.batches.episodes.latents[rollout.moments.episode[row], number].float()
                assert torch.equal(recalled.latents[row, slot], there)
                truth += 1
        rollout.advance(torch.full((16, 1, *rollout.recent.shape[2:]), (step + 1) / 8))
        poses.append(rollout.pasts().poses[:, -1])
    assert own > 40
    assert truth > 400
