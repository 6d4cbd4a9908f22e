"""Steps of the model's training: what is learned, from which frames, by which optimiser."""

from dataclasses import replace

import pytest
import torch

from models.schedule import Schedule
from worldsim.training.ahead import AheadSettings
from worldsim.training.moments import Moments, coming_latents, recent_actions, recent_latents
from worldsim.training.recalling import RecallMixture
from worldsim.training.self_rollout import SelfRolloutSettings, random_moments

TRUTH_ONLY = SelfRolloutSettings(after_steps=10**6, length=6)


def test_loss_falls_on_a_small_world(trainer_of, training_of, episodes_of) -> None:
    """A sign, a target or a gradient gone wrong leaves the loss at 2, that of noise minus latent."""
    settings = training_of(own_frames=TRUTH_ONLY, batch=8, learning_rate=5e-3, history_noise=0.1)
    trainer = trainer_of(settings, episodes_of(count=1, length=60))
    losses = [float(trainer.take_step(step)["loss"]) for step in range(60)]
    assert losses[0] == pytest.approx(2, abs=0.2)
    assert sum(losses[-8:]) / 8 < 0.85 * losses[0]


def test_muon_takes_the_matrices_of_the_blocks(trainer_of) -> None:
    """Muon is for hidden matrices: embeddings, biases, norms and the output belong to AdamW; all to one of them."""
    trainer = trainer_of()
    muon, adam = trainer.state.optimizers
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adam, torch.optim.AdamW)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    by_muon, by_adam = (
        {names[id(p)] for group in optimizer.param_groups for p in group["params"]}
        for optimizer in (muon, adam)
    )
    assert {name for name in by_muon if not name.startswith("refiner.")} == {
        f"blocks.{layer}.{part}.weight" for layer in range(2) for part in ("qkv", "out", "up", "down")
    }
    assert by_muon | by_adam == set(names.values())
    assert not by_muon & by_adam


def test_steps_depend_on_seed_and_step_alone(trainer_of, training_of) -> None:
    """Exact resume rests on it: torch's global random state must not be looked at."""
    torch.manual_seed(1)
    first = [trainer_of().take_step(step)["loss"] for step in (0,)]
    torch.manual_seed(2)
    trainer = trainer_of()
    torch.rand(10)
    assert torch.equal(first[0], trainer.take_step(0)["loss"])
    assert not torch.equal(first[0], trainer_of(training_of(seed=1)).take_step(0)["loss"])
    assert not torch.equal(first[0], trainer_of().take_step(1)["loss"])


def test_random_moments_reach_every_frame(episodes_of) -> None:
    """The last frame and the second must be drawn, none beyond; long episodes not more often than their share."""
    episodes = replace(episodes_of(count=2, length=30), lengths=torch.tensor([30, 12]))
    moments = random_moments(episodes, 4000, 1, torch.Generator().manual_seed(0))
    for episode, length in ((0, 30), (1, 12)):
        times = moments.time[moments.episode == episode]
        assert set(times.tolist()) == set(range(1, length))
    sections = random_moments(episodes, 4000, 4, torch.Generator().manual_seed(0))
    assert int(sections.time[sections.episode == 1].max()) == 12 - 4


def test_moments_by_hand(episodes_of) -> None:
    """`actions[t]` led to frame t: the section's own actions are the last, the frame before it is the newest."""
    episodes = episodes_of(count=2, length=30)
    moments = Moments(episode=torch.tensor([1, 0]), time=torch.tensor([3, 20]))
    recent, present = recent_latents(episodes.latents, moments, 5)
    actions = recent_actions(episodes.actions, moments, 5, 2)
    coming = coming_latents(episodes.latents, moments, 2)
    for row, (episode, time) in enumerate([(1, 3), (0, 20)]):
        for slot, frame in enumerate(range(time - 5, time)):
            assert bool(present[row, slot]) == (frame >= 0)
            expected = episodes.latents[episode, frame].float() if frame >= 0 else torch.zeros(4, 12, 16)
            assert torch.equal(recent[row, slot], expected)
        for slot, frame in enumerate(range(time - 5, time + 2)):
            expected = episodes.actions[episode, frame].long() if frame >= 0 else torch.zeros(3).long()
            assert torch.equal(actions[row, slot], expected)
        assert torch.equal(coming[row], episodes.latents[episode, time : time + 2].float())


def test_history_noise_is_told_and_leaves_the_target_clean(trainer_of, training_of) -> None:
    """sigma says how noisy each history is; clean ones stay exactly as recorded, and so does every target."""
    settings = training_of(batch=64, own_frames=TRUTH_ONLY, clean_share=0.4, history_noise=0.5)
    settings = replace(settings, recall=RecallMixture(off=0.0, oracle=0.0, own_oracle=0.0, random=0.0))
    trainer = trainer_of(settings)
    batch = trainer.batches.draw(0, torch.Generator().manual_seed(0))
    assert batch.own == 0
    history, actions = batch.history, batch.actions
    flat = trainer.batches.episodes.latents.float().flatten(0, 1)
    assert all(bool((flat == frame).flatten(1).all(1).any()) for frame in batch.coming[:, 0])
    clean = history.sigma == 0
    assert 0.25 < float(clean.float().mean()) < 0.55
    assert float(history.sigma.max()) <= 0.5
    for row in range(64):
        frames = history.recent[row][history.recent_present[row]]
        known = [bool((flat == frame).flatten(1).all(1).any()) for frame in frames]
        assert all(known) if clean[row] else not any(known)
    assert torch.equal(actions[:, :22], history.recent_actions)
    assert actions.shape == (64, 23, 3)


def test_recalled_frames_reach_the_model_with_their_ages(trainer_of, training_of) -> None:
    """Frame and age of a slot must belong together."""
    settings = training_of(batch=32, own_frames=TRUTH_ONLY, clean_share=1.0)
    settings = replace(settings, recall=RecallMixture(off=0.0, oracle=0.0, own_oracle=0.0, random=1.0))
    trainer = trainer_of(settings)
    generator = torch.Generator().manual_seed(0)
    batch = trainer.batches.draw(0, generator)
    moments = random_moments(trainer.batches.episodes, 32, 1, torch.Generator().manual_seed(0))
    assert torch.equal(batch.coming, coming_latents(trainer.batches.episodes.latents, moments, 1))
    recalled = batch.history.recalled
    rows, slots = recalled.present.nonzero(as_tuple=True)
    frames = moments.time[rows] - recalled.ages[rows, slots]
    assert torch.equal(
        recalled.latents[rows, slots], trainer.batches.episodes.latents[moments.episode[rows], frames].float()
    )
    assert len(rows) > 40


@pytest.mark.parametrize(
    "schedule",
    [
        "td_f4k1_g1",
        "td_f1k1h8w8f2k1h4w8f1k1h4w4f2k1h2w4f1k1_r2k1h4w4_g2",
        "td_f16k16f16k16h2w2f8k8f4k4h4w4f1k1_r1k1_g1",
        "f1k1f2k2_tc_f4k4f2k1_r1k1_g1",
        "f1k1_ta_f4k4f2k1_g1",
        "td_f4k2f1k1_r2k1_g1+D",
        "td_s4k2s2k1_f4k2f1k1_r1k1_g1",
        "td_f4k2f1k1_r1k1_g2_x_f1k1",
        "f1k1_x_g3_f1k1f4k2_td",
        "td_f16k4f2k2f1k1_g9",
        "td_f16k4f4k2f1k1_g9_x_f1k1",
        "f1k1_x_g9_f1k1f4k2f16k4_td",
        "ta_f16k4f2k2f1k1_g9+D",
    ],
)
def test_every_schedule_that_packs_trains(trainer_of, training_of, schedule: str) -> None:
    """Without memory, of other kernels and of longer sections: each level must learn from the first steps on."""
    share = 0.5 if Schedule.parse(schedule).recent else 0.0
    own = SelfRolloutSettings(share=share, after_steps=0, length=6)
    trainer = trainer_of(training_of(own_frames=own), schedule=schedule)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    for step in range(3):
        assert torch.isfinite(trainer.take_step(step)["loss"])
    still = [name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])]
    assert not [name for name in still if name.startswith("packer.")]


def test_an_inverted_schedule_cannot_train_on_its_own(trainer_of, training_of) -> None:
    """It goes from last to first, own histories from first to last."""
    with pytest.raises(ValueError, match=r"f1k1_x_g1_f1k1_td.*use --own-frames.share 0"):
        trainer_of(training_of(), schedule="f1k1_x_g1_f1k1_td")


def test_frames_ahead_are_the_true_ones(trainer_of, training_of) -> None:
    """Endpoints lie as far ahead as they are told to; those made as ends have none, and lie beyond a gap."""
    own = SelfRolloutSettings(share=0.25, after_steps=0, length=6)
    settings = training_of(batch=400, own_frames=own, clean_share=1.0)
    settings = replace(settings, ahead=AheadSettings(longest=30, unplanned=0.3, endless=0.2))
    trainer = trainer_of(settings, schedule="td_f4k2f1k1_g2_x_f2k1")
    generator = torch.Generator().manual_seed(0)
    batch, episodes = trainer.batches.draw(0, generator), trainer.batches.episodes
    history, moments = batch.history, random_moments(episodes, 300, 2, torch.Generator().manual_seed(0))
    gap = history.gap
    assert bool((gap[300:] == 0).all())
    assert 0.15 < float((gap[:300] > 0).float().mean()) < 0.35
    assert int(gap.max()) > 15
    lengths = episodes.lengths[moments.episode]
    for row in range(300):
        episode, time = int(moments.episode[row]), int(moments.time[row])
        known = time - int(gap[row])
        for slot in range(5):
            number = known - 5 + slot
            assert bool(history.recent_present[row, slot]) == (number >= 0)
            if number >= 0:
                assert torch.equal(history.recent[row, slot], episodes.latents[episode, number].float())
                assert torch.equal(
                    history.recent_actions[row, slot], episodes.actions[episode, number].long()
                )
        for slot in range(2):
            number = time + 1 + int(history.last.ages[row, slot])
            there = bool(history.last.present[row, slot])
            assert not (there and (gap[row] > 0 or number >= lengths[row]))
            if there:
                assert torch.equal(history.last.latents[row, slot], episodes.latents[episode, number].float())
        assert torch.equal(batch.coming[row], episodes.latents[episode, time : time + 2].float())
    with_end = history.last.present[:300, 0][gap[:300] == 0].float().mean()
    assert 0.55 < float(with_end) < 0.85
    ages = history.last.ages
    assert bool((ages[:, 1] == ages[:, 0] + 1).all())
    assert 20 < int(ages.max()) <= 31
    assert int(ages[:, 0].median()) < 12


def test_inverted_training_sees_what_follows(trainer_of, training_of) -> None:
    """The frames right behind the section with the actions that led to them, at times only the nearest or none."""
    own = SelfRolloutSettings(share=0.0, after_steps=0, length=6)
    trainer = trainer_of(
        training_of(batch=300, own_frames=own, clean_share=1.0), schedule="f1k1_x_g2_f1k1f4k2_td"
    )
    batch, episodes = trainer.batches.draw(0, torch.Generator().manual_seed(0)), trainer.batches.episodes
    moments = random_moments(episodes, 300, 2, torch.Generator().manual_seed(0))
    history = batch.history
    assert history.recent.shape[1] == 0
    assert torch.equal(history.first.latents[:, 0], episodes.latents[moments.episode, 0].float())
    counts = history.coming.present.sum(1)
    assert set(counts.tolist()) == set(range(6))
    for row in range(300):
        episode, time = int(moments.episode[row]), int(moments.time[row])
        for slot in range(int(counts[row])):
            number = time + 2 + slot
            assert torch.equal(history.coming.latents[row, slot], episodes.latents[episode, number].float())
            assert torch.equal(history.coming_actions[row, slot], episodes.actions[episode, number].long())
        assert not history.coming.latents[row, int(counts[row]) :].any()
