"""Training on the model's own frames: when, from which frames, seen from where, and which targets count."""

from dataclasses import replace

import pytest
import torch

from models.flow import FlowSettings
from retrieval.motion import traced_back
from retrieval.place import place_keys
from worldsim.recall import PLACE
from worldsim.training.covisibility import CovisibilitySettings, covisibility
from worldsim.training.moments import recent_latents
from worldsim.training.recalling import RecallMixture, mark_episodes
from worldsim.training.self_rollout import SelfRollout, SelfRolloutSettings


def test_own_frames_begin_and_begin_anew_as_told(trainer_of, training_of) -> None:
    """Own histories start after `after_steps`, advance one section a step, and restart at multiples of `length`."""
    settings = training_of(own_frames=SelfRolloutSettings(share=0.5, after_steps=9, length=6))
    trainer = trainer_of(settings)
    for step in range(9):
        assert "loss_own_history" not in trainer.take_step(step)
    starts, times = [], []
    for step in range(9, 24):
        before = trainer.batches.own
        assert "loss_own_history" in trainer.take_step(step)
        if trainer.batches.own is not before:
            starts.append(step)
        times.append(trainer.batches.own.moments.time)
    assert starts == [9, 12, 18]
    assert torch.equal(times[4] - times[3], torch.ones(3, dtype=torch.int64))
    assert not torch.equal(times[3] - times[2], torch.ones(3, dtype=torch.int64))
    assert int(torch.stack(times).max()) <= 90


def test_own_history_holds_what_the_model_made(trainer_of, training_of) -> None:
    """The model must see its own frames, not the truth, and for every own row the true next frame as target."""
    trainer = trainer_of(training_of(own_frames=SelfRolloutSettings(after_steps=0, length=24)))
    for step in range(5):
        trainer.take_step(step)
    own = trainer.batches.own
    truth, present = recent_latents(trainer.batches.episodes.latents, own.moments, 22)
    assert torch.equal(own.present, present)
    shared = present.clone()
    shared[:, -5:] = False
    assert torch.equal(own.recent[shared], truth[shared])
    assert not torch.allclose(own.recent[:, -5:], truth[:, -5:], atol=0.1)


def test_self_rollout_stays_within_its_episode(trainer_of, episodes_of) -> None:
    """`length` steps ahead must have true frames to learn from."""
    episodes = episodes_of(count=2, length=40)
    trainer = trainer_of(episodes=episodes)
    given = (episodes, trainer.batches.recall.marks, trainer.batches.odometer)
    rollout = SelfRollout(*given, 500, 22, 1, 24, torch.Generator().manual_seed(0))
    assert int(rollout.moments.time.max()) == 40 - 24
    for _ in range(24):
        assert int(rollout.moments.time.max()) < 40
        rollout.advance(torch.ones(500, 1, 4, 12, 16))
    assert bool((rollout.recent[:, -22:] == 1).all())
    with pytest.raises(ValueError, match="an episode has 40 frames, training needs more than 48"):
        SelfRollout(*given, 4, 22, 2, 24, torch.Generator())


@pytest.mark.parametrize("section", [1, 3])
def test_own_frames_are_seen_from_where_play_would_think(trainer_of, episodes_of, section: int) -> None:
    """Poses of own frames come from these frames, not from the true ones: the odometer followed along both must agree."""
    episodes = episodes_of(count=2, length=60)
    trainer = trainer_of(episodes=episodes)
    odometer, marks = trainer.batches.odometer, trainer.batches.recall.marks
    generator = torch.Generator().manual_seed(2)
    torch.nn.init.normal_(odometer.step.mlp[-1].weight, generator=generator)
    if (
        section == 1
    ):  # Sure of every landmark, and of nonsense. Longer sections find landmarks once, not at every frame.
        odometer.registration.mlp[-1].bias.copy_(torch.tensor([9.0, 0.3, -0.2, -2.0]))
    marks = mark_episodes(episodes, trainer.batches.recall.descriptor, odometer)
    # As play knows them that has not settled yet: by the frames until now alone.
    causal = odometer.follow(episodes.latents.float(), episodes.actions)
    places = place_keys(causal.poses.flatten(0, 1), PLACE).unflatten(0, causal.poses.shape[:2])
    marks = replace(marks, **vars(causal), places=places)
    rollout = SelfRollout(episodes, marks, odometer, 6, 22, section, 4, generator)
    begun, episode = rollout.moments.time, rollout.moments.episode
    made = torch.randn(6, 4 * section, 4, 12, 16, generator=generator)
    for i in range(4):
        told = rollout.pasts().expected
        for row in range(6):
            frames = torch.cat(
                (episodes.latents[episode[row], : begun[row]].float(), made[row, : i * section])
            )
            actions = episodes.actions[episode[row], : len(frames) + section]
            whole = torch.cat((frames, torch.zeros(section, 4, 12, 16)))
            followed = odometer.follow(whole[None], actions[None])
            there = rollout.present[row]
            known = slice(max(0, len(frames) - 22), len(frames))
            recent = traced_back(
                followed.poses[0, len(frames) - 1], followed.moves[0, known], followed.poses[0, known, 2]
            )
            torch.testing.assert_close(rollout.pasts().poses[row][there], recent, rtol=1e-3, atol=1e-2)
            torch.testing.assert_close(told[row, 0], followed.expected[0, len(frames)], rtol=1e-3, atol=1e-2)
        rollout.advance(made[:, i * section : (i + 1) * section])


def test_metrics_tell_true_and_own_histories_apart(trainer_of, training_of) -> None:
    """The two losses say whether drift is being learned away; together they are the loss."""
    own_frames = SelfRolloutSettings(share=0.5, after_steps=0, length=6, known=0.0)
    trainer = trainer_of(training_of(own_frames=own_frames))
    metrics = trainer.take_step(0)
    both = (metrics["loss_true_history"] + metrics["loss_own_history"]) / 2
    torch.testing.assert_close(metrics["loss"], both)
    assert float(metrics["gradient_norm"]) > 0


def test_own_histories_count_where_true_frames_show_the_target(trainer_of, training_of) -> None:
    """The recorded next frame denies what the model made up where nothing it sees had told it otherwise."""
    reach, known = 22, 0.6
    own_frames = SelfRolloutSettings(share=0.5, after_steps=0, length=24, known=known, held=0.0)
    recall = RecallMixture(off=0.0, oracle=0.0, own_oracle=0.0, random=1.0)
    trainer = trainer_of(replace(training_of(batch=16, own_frames=own_frames), recall=recall))
    episodes = trainer.batches.episodes
    steps = torch.randn(episodes.poses.shape, generator=torch.Generator().manual_seed(1))
    episodes.poses.copy_((steps * torch.tensor([12.0, 12.0, 0.0, 15.0])).cumsum(1))
    counted = []
    for step in range(24):
        batch = trainer.batches.draw(step, trainer.processes.generator(0, step))
        rollout = trainer.batches.own
        assert batch.own == 8
        assert bool((batch.weights[:8] == 1).all())
        ages = batch.history.recalled.ages[8:]
        for row in range(8):
            episode, time = int(rollout.moments.episode[row]), int(rollout.moments.time[row])
            there = batch.history.recalled.present[8 + row]
            seen = [*(time - ages[row][there]).tolist(), *range(max(0, time - reach), time - step)]
            best = max(
                [
                    float(
                        covisibility(
                            episodes.poses[episode, frame][None, None],
                            episodes.rooms[episode, frame][None, None],
                            episodes.poses[episode, time][None], episodes.rooms[episode, time][None],
                            CovisibilitySettings(),
                        )
                    )
                    for frame in seen
                ],
                default=0.0,
            )  # fmt: skip
            assert float(batch.weights[8 + row]) == (best >= known)
            counted.append(best >= known)
        rollout.advance(torch.zeros(8, 1, *rollout.recent.shape[2:]))
    assert 10 < sum(counted) < len(counted) - 10


def test_own_frames_are_drawn_as_at_play(trainer_of, training_of) -> None:
    """Layout after the noised history and detail after the clean one, whatever noise training itself sees it under."""
    own_frames = SelfRolloutSettings(share=0.5, after_steps=0, length=6, shift=0.5, held=0.0)
    trainer = trainer_of(training_of(batch=8, own_frames=own_frames))
    model = trainer.model
    generator = torch.Generator().manual_seed(0)
    for layer in (model.final, model.modulation, model.final_modulation):
        torch.nn.init.normal_(layer.weight, std=0.1, generator=generator)
    flow = FlowSettings(denoising_steps=3, shift=0.5, layout_noise=0.6, layout_above=0.7)
    trainer.own_flow = flow
    batch = trainer.batches.draw(0, trainer.processes.generator(0, 0))
    trainer._advance(batch.own_history, batch.actions[4:], batch.coming[4:], torch.Generator().manual_seed(5))
    assert trainer.batches.own is not None
    made, clean = trainer.batches.own.recent[:, -1:], batch.own_history
    frames = torch.randn(4, 1 + clean.frames, *made.shape[2:], generator=torch.Generator().manual_seed(5))
    noise, veil = frames[:, :1], frames[:, 1:]

    def drawn(first: float) -> torch.Tensor:
        histories = [clean.under(level).noised(veil) for level in (first, 0.0, 0.0)]
        latents, levels = noise, [1.0, 0.5, 0.2, 0.0]
        for history, level, after in zip(histories, levels[:-1], levels[1:], strict=True):
            cache = model.encode_history(model.pack(history), history.sigma)
            velocity = model.denoise(latents, torch.full((4,), level), batch.actions[4:], cache)
            latents = latents + (after - level) * velocity
        return latents

    with torch.no_grad():
        torch.testing.assert_close(made, drawn(0.6), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(made, drawn(0.0), atol=1e-2)


def test_own_frames_are_drawn_with_the_shift_that_is_asked_for(trainer_of, training_of) -> None:
    """As at play unless told otherwise: a rollout begun alike goes on alike only where the noise levels agree."""
    made = []
    for shift in (None, 2.0, 0.5):
        own = SelfRolloutSettings(share=0.5, after_steps=0, length=6, shift=shift, held_noise=0.3)
        trainer = trainer_of(training_of(own_frames=own))
        torch.nn.init.normal_(trainer.model.final.weight, std=0.1, generator=torch.Generator().manual_seed(0))
        trainer.take_step(0)
        assert trainer.batches.own is not None
        made.append(trainer.batches.own.recent[:, -1])
    assert trainer.sizes.flow.shift == 2.0
    torch.testing.assert_close(made[0], made[1])
    assert not torch.allclose(made[0], made[2], atol=1e-3)
    with pytest.raises(ValueError, match=r"shift 0\.0 of own frames"):
        SelfRolloutSettings(shift=0.0)


def test_own_histories_do_not_grow_without_bound(trainer_of, training_of) -> None:
    """An untrained model's did, to losses in the thousands, as soon as their targets counted."""
    trainer = trainer_of(training_of(own_frames=SelfRolloutSettings(after_steps=0, length=6)))
    batch = trainer.batches.draw(0, trainer.processes.generator(0, 0))
    rollout = trainer.batches.own
    made = torch.randn(batch.own, 1, *rollout.recent.shape[2:], generator=torch.Generator().manual_seed(0))
    rollout.advance(made * 3)
    assert torch.equal(rollout.recent[:, -1:], (made * 3).clamp(-12, 12))
    rollout.advance(made * 1e4)
    assert float(rollout.recent[:, -1].abs().max()) == 12


def test_own_frames_follow_play_unless_told_otherwise() -> None:
    """What training draws its own frames with must be what play does, or what a flag says, 0 included."""
    play = FlowSettings(shift=0.5, layout_noise=0.25, guidance=0.3)
    assert SelfRolloutSettings(shift=None).flow(play) == play
    told = SelfRolloutSettings(shift=2.0, layout_noise=0.0).flow(play)
    assert (told.shift, told.layout_noise, told.guidance) == (2.0, 0.0, 0.3)
    with pytest.raises(ValueError, match=r"layout noise 1\.0 of own frames"):
        SelfRolloutSettings(layout_noise=1.0)
