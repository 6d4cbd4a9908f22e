"""Worlds in play: replay, batches, memory modes, what they show of themselves, and their errors."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from worldsim.checkpoint import WorldModels
from worldsim.presets import tiny
from worldsim.recall import ACTION_STEPS
from worldsim.section import Section
from worldsim.world import World, WorldSettings, step_worlds


def some_actions(steps: int, section: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (steps, section, 3))


def play(
    models: WorldModels, seed: int, actions: np.ndarray, settings: WorldSettings | None = None
) -> tuple[World, list[Section]]:
    world = World(models, settings)
    world.reset(seed)
    return world, [world.step(action) for action in actions]


def warmed(models: WorldModels, frames: int, settings: WorldSettings | None = None, seed: int = 0) -> World:
    """A world that has seen `frames` random latents."""
    generator = torch.Generator().manual_seed(seed)
    world = World(models, settings, seed=seed)
    world.observe(
        torch.randn(frames, 4, 12, 16, generator=generator),
        torch.randint(3, (frames, 3), generator=generator),
    )
    return world


def same(left: list[Section], right: list[Section]) -> bool:
    return all(
        torch.equal(a.latents, b.latents)
        and np.array_equal(a.frames_u8, b.frames_u8)
        and a.recalled == b.recalled
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.usefixtures("nothing_is_too_far")
def test_seed_and_actions_make_the_same_world(tiny_models: WorldModels) -> None:
    """Bit for bit, past the age where recall begins: rewinding and resuming a world rest on it."""
    actions = some_actions(30)
    _, first = play(tiny_models, 7, actions)
    torch.rand(3)
    np.random.default_rng().random()
    _, again = play(tiny_models, 7, actions)
    assert same(first, again)
    assert first[-1].recalled
    assert not same(first, play(tiny_models, 8, actions)[1])
    other = actions.copy()
    other[20, 0, 1] = (other[20, 0, 1] + 1) % 3
    changed = play(tiny_models, 7, other)[1]
    assert same(first[:20], changed[:20])
    assert not np.array_equal(first[20].latents, changed[20].latents)


def test_reset_starts_a_world_anew(tiny_models: WorldModels) -> None:
    """A world that is left behind must not shine through in memory, noise or step count."""
    actions = some_actions(4)
    world, _ = play(tiny_models, 3, some_actions(25, seed=1))
    opening = world.reset(7)
    assert opening.shape == (8, 96, 128, 3)
    assert (len(world.memory), world.steps, world.seed) == (8, 0, 7)
    assert same([world.step(action) for action in actions], play(tiny_models, 7, actions)[1])


def test_resets_pick_all_openings(tiny_models: WorldModels) -> None:
    """Seeds that follow each other begin differently until all recorded openings have come up, then in another order."""
    world = World(tiny_models, WorldSettings(memory_mode="off"))
    begun = [world.reset(seed).tobytes() for seed in range(20)]
    assert all(len(set(begun[first : first + 5])) == 5 for first in (0, 5, 10, 15))
    assert begun[:5] != begun[5:10]


@pytest.mark.parametrize("mode", ["off", "time", "cosine", "hybrid"])
def test_a_batch_of_worlds_equals_each_alone(tiny_models: WorldModels, mode: str) -> None:
    """Evaluation plays many worlds at once: each must be what it would be alone, whatever its age."""
    settings = WorldSettings(memory_mode=mode)
    ages = (3, 30, 90)
    together = [warmed(tiny_models, age, settings, seed=age) for age in ages]
    alone = [warmed(tiny_models, age, settings, seed=age) for age in ages]
    actions = torch.from_numpy(some_actions(3)[:, :, :])
    for _ in range(3):
        sections = step_worlds(together, actions)
        for i, world in enumerate(alone):
            single = world.step(actions[i].numpy())
            torch.testing.assert_close(sections[i].latents, single.latents, rtol=1e-3, atol=1e-3)
            assert [pick.frame for pick in sections[i].recalled] == [pick.frame for pick in single.recalled]
    assert [len(world.memory) for world in together] == [age + 3 for age in ages]


def test_noise_comes_from_seed_and_step_alone(tiny_models: WorldModels) -> None:
    """Neither batch, memory mode nor what was played before may change the noise of step n."""
    world, _ = play(tiny_models, 4, some_actions(3))
    other = warmed(tiny_models, 60, WorldSettings(memory_mode="random"), seed=4)
    other.steps = 3
    assert torch.equal(world.noise(), other.noise())
    other.steps = 4
    assert not torch.equal(world.noise(), other.noise())
    noise = torch.cat([warmed(tiny_models, 1, seed=seed).noise() for seed in range(8)])
    assert float(noise.mean()) == pytest.approx(0, abs=0.05)
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.usefixtures("nothing_is_too_far")
def test_memory_modes_change_what_is_made_and_nothing_else(tiny_models: WorldModels) -> None:
    """Same weights, seed and actions: the modes differ in what they recall, and that reaches the frames."""
    made, recalled = {}, {}
    for mode in ("off", "random", "time", "cosine", "hybrid"):
        section = warmed(tiny_models, 200, WorldSettings(memory_mode=mode)).step(some_actions(1)[0])
        made[mode], recalled[mode] = section.latents, [pick.frame for pick in section.recalled]
    assert recalled["off"] == []
    assert recalled["time"] == [177, 170, 163, 156]
    assert all(len(recalled[mode]) == 4 for mode in ("random", "time", "cosine", "hybrid"))
    assert max(max(frames, default=0) for frames in recalled.values()) < 200 - 22
    assert not torch.allclose(made["off"], made["time"], atol=1e-3)
    assert not torch.allclose(made["random"], made["time"], atol=1e-3)


def an_oracle(models: WorldModels, frames: int) -> tuple[World, torch.Tensor]:
    """A world that knows true poses, which have nothing to do with its own estimates; and the poses."""
    world = World(models, WorldSettings(memory_mode="oracle"))
    generator = torch.Generator().manual_seed(3)
    poses = 500 * torch.rand(frames, 3, generator=generator)
    latents = torch.randn(frames, 4, 12, 16, generator=generator)
    world.observe(latents, torch.zeros(frames, 3, dtype=torch.int64), true_poses=poses)
    return world, poses


def test_oracle_finds_the_coming_view(tiny_models: WorldModels) -> None:
    """Given the true next pose it must recall the frame that was seen from there."""
    world, poses = an_oracle(tiny_models, 150)
    section = step_worlds([world], torch.from_numpy(some_actions(1)), poses[None, 42:43])[0]
    assert section.recalled[0].frame == 42
    assert section.recalled[0].age == 150 - 42
    assert section.recalled[0].score == pytest.approx(0, abs=1e-3)
    assert not torch.allclose(world.memory.poses[42], poses[42], atol=1)


@pytest.mark.usefixtures("nothing_is_too_far")
def test_what_the_model_is_told_of_places_is_what_was_estimated(
    tiny_models: WorldModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poses of the recent, the recalled (registered with the newest) and the coming frames, each beside its own frame."""
    models = replace(tiny_models, odometer=deepcopy(tiny_models.odometer), makers={})
    world = warmed(models, 60)
    models.odometer.registration.mlp[-1].bias.copy_(torch.tensor([9.0, 0.3, -0.2, -2.0]))  # sure of nonsense
    told = []
    monkeypatch.setattr(
        world.maker, "pack", lambda history, noise: told.append(history) or pack(history, noise)
    )
    pack = type(world.maker).pack.__get__(world.maker)
    before = world.memory.poses[:60].clone()
    section = world.step(some_actions(1)[0])
    torch.testing.assert_close(told[0].recent_poses[0], before[-22:], rtol=1e-4, atol=1e-2)
    numbers = [pick.frame for pick in section.recalled]
    newest, remembered = world.memory.latents([59]).float(), world.memory.latents(numbers).float()
    registered = models.odometer.registered(newest, before[59:60], remembered[None], before[numbers][None])
    torch.testing.assert_close(told[0].recalled.poses, registered, rtol=1e-3, atol=0.5)
    assert float((registered[0] - before[numbers]).norm(dim=1).min()) > 1
    assert told[0].section_poses.shape == (1, 1, 3)
    assert torch.equal(told[0].section_poses[0, 0, 2], world.memory.poses[60, 2])
    assert float((told[0].section_poses[0, 0] - before[-1]).norm()) > 1


def test_poses_estimated_before_lead_to_the_same_world(tiny_models: WorldModels) -> None:
    """An evaluation estimates them once for all memory modes: the next step must go on from the same place and pace."""
    world = warmed(tiny_models, 60)
    again = World(tiny_models)
    latents, actions, _, _ = world.memory.recent(60)
    followed = tiny_models.odometer.follow(latents[None].float(), actions[None])
    again.observe(latents.float(), actions, followed)
    torch.testing.assert_close(again.where.pose, world.where.pose, atol=0.2, rtol=0)
    torch.testing.assert_close(again.where.move, world.where.move, atol=1e-2, rtol=0)
    action = some_actions(1)[0]
    made = [each.step(action).latents for each in (world, again)]
    torch.testing.assert_close(*made, atol=2e-2, rtol=0)
    one = World(tiny_models)
    one.observe(latents[:1].float(), actions[:1], followed.part(0, 1))
    assert not one.where.move.any()
    with pytest.raises(ValueError, match="the world has 61 frames already"):
        again.observe(latents[:1].float(), actions[:1], followed.part(0, 1))


def test_memory_is_append_only(tiny_models: WorldModels) -> None:
    """No step may touch frames that were shown, also where the store grows past 256."""
    world = warmed(tiny_models, 250)
    before = world.memory.latents(list(range(250))).clone()
    sections = [world.step(action) for action in some_actions(12)]
    assert len(world.memory) == 262
    assert torch.equal(world.memory.latents(list(range(250))), before)
    made = torch.cat([section.latents for section in sections])
    torch.testing.assert_close(
        world.memory.latents(list(range(250, 262))).float(), made, rtol=1e-2, atol=1e-2
    )
    shown = sections[3].frames_u8[0].astype(int)
    assert np.abs(world.frame_u8(253).astype(int) - shown).max() <= 2


@pytest.mark.usefixtures("nothing_is_too_far")
def test_sections_of_several_frames(section_models: WorldModels) -> None:
    """Two frames a step: both appended in order with their own actions, and the world replays."""
    actions = some_actions(14, section=2)
    world, sections = play(section_models, 1, actions)
    assert sections[0].frames_u8.shape == (2, 96, 128, 3)
    assert len(world.memory) == 8 + 28
    _, remembered, _, _ = world.memory.recent(28)
    assert np.array_equal(remembered.numpy(), actions.reshape(28, 3))
    assert same(sections, play(section_models, 1, actions)[1])
    assert len(sections[-1].recalled) >= 2
    assert all(pick.age > 14 for section in sections for pick in section.recalled)
    oracle, poses = an_oracle(section_models, 80)
    found = step_worlds([oracle], torch.from_numpy(some_actions(1, section=2)), poses[None, [10, 33]])[0]
    assert found.recalled[0].frame == 33


def test_fewer_denoising_steps_are_used(tiny_models: WorldModels) -> None:
    """The setting overrides the checkpoint's; the checkpoint's own stays as it is."""
    one = warmed(tiny_models, 30, WorldSettings(denoising_steps=1))
    three = warmed(tiny_models, 30, WorldSettings(denoising_steps=3))
    usual = warmed(tiny_models, 30)
    named = warmed(tiny_models, 30, WorldSettings(denoising_steps=tiny_models.flow.denoising_steps))
    made = [world.step(some_actions(1)[0]).latents for world in (one, three, usual, named)]
    assert not torch.allclose(made[0], made[1], atol=1e-3)
    assert torch.equal(made[2], made[3])
    assert tiny_models.flow.denoising_steps == 2


def test_section_tells_its_timings(tiny_models: WorldModels) -> None:
    """The panel of play.py shows them by these names."""
    section = warmed(tiny_models, 30).step(some_actions(1)[0])
    assert set(section.timings_s) == {"recall", "pack", "history", "denoise", "decode", "append"}
    assert all(seconds >= 0 for seconds in section.timings_s.values())


@pytest.mark.parametrize(
    ("actions", "line"),
    [
        (np.zeros((2, 3), np.int64), "2 actions for a section of 1"),
        (np.zeros((0, 3), np.int64), "0 actions for a section of 1"),
        (np.zeros((1, 2), np.int64), "actions have 2 factors"),
        (np.array([[0, 3, 0]]), "action 3 of factor 'turn'"),
        (np.array([[-1, 0, 0]]), "action -1 of factor 'move'"),
    ],
)
def test_wrong_actions_are_refused_and_leave_the_world_alone(
    tiny_models: WorldModels, actions: np.ndarray, line: str
) -> None:
    """A step half taken would break the replay."""
    world = warmed(tiny_models, 30)
    with pytest.raises(ValueError, match=line) as caught:
        world.step(actions)
    assert "\n" not in str(caught.value)
    assert (len(world.memory), world.steps) == (30, 0)


def test_errors_are_one_line_and_name_the_mend(tiny_models: WorldModels) -> None:
    """Each is something a user can run into with a checkpoint and a flag."""
    with pytest.raises(ValueError, match=r"no openings.safetensors .* run worldsim train"):
        World(replace(tiny_models, openings=None)).reset(0)
    with pytest.raises(ValueError, match="0 denoising steps; use at least 1"):
        World(tiny_models, WorldSettings(denoising_steps=0))
    with pytest.raises(ValueError, match="'oracle' needs true poses"):
        warmed(tiny_models, 30, WorldSettings(memory_mode="oracle")).step(some_actions(1)[0])
    with pytest.raises(ValueError, match="no frames to go on from; reset it"):
        World(tiny_models).step(some_actions(1)[0])


@pytest.mark.parametrize("mode", ["hybrid", "random"])
@pytest.mark.parametrize(
    "schedule",
    [
        "td_f4k1_g1",
        "td_f4k4h4w4f2k1h4w4f1k1_r2k1h4w4_g2",
        "f1k1f4k2_tc_f4k2f1k1_r2k1_g1",
        "ta_f4k4f1k1_g1",
        "td_s4k2s2k1_f4k2f1k1_r1k1_g1",
        "td_f4k2f1k1_r2k1_g1_x_f1k1",
    ],
)
def test_other_schedules_play(models_of, schedule: str, mode: str) -> None:
    """A sliding window without recall is a world too, and so is one of other kernels."""
    preset = replace(tiny(), transformer=replace(tiny().transformer, schedule=schedule))
    section = preset.schedule.section
    models = models_of(replace(preset, descriptor=replace(preset.descriptor, steps=ACTION_STEPS + section)))
    world = warmed(models, 40, WorldSettings(memory_mode=mode))
    made = world.step(some_actions(1, section)[0])
    assert made.frames_u8.shape[0] == section
    assert bool(made.recalled) == bool(models.schedule.recalled.frames)


@pytest.mark.parametrize("schedule", ["f1k1f2k2_ta_f4k4f2k1_r2k1_g1", "f1k1_tc_f4k2f1k1_r2k1_g1"])
def test_tails_of_worlds_of_different_ages_make_a_batch(models_of, schedule: str) -> None:
    """Padding one world's tail to another's length must not reach either."""
    models = models_of(replace(tiny(), transformer=replace(tiny().transformer, schedule=schedule)))
    ages = (3, 8, 21, 30)
    alone = [warmed(models, age, seed=age) for age in ages]
    together = [warmed(models, age, seed=age) for age in ages]
    actions = some_actions(len(ages))
    made = step_worlds(together, torch.from_numpy(actions))
    for world, action, section in zip(alone, actions, made, strict=True):
        expected = world.step(action).latents
        torch.testing.assert_close(section.latents, expected, rtol=1e-2, atol=1e-2)


def test_history_noise_is_told_and_drawn_anew_each_step(
    tiny_models: WorldModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """σ_test of Diffusion Forcing: what the model sees is (1 − σ) x + σ noise, and the level is what it is told."""
    clean, noisy = warmed(tiny_models, 40), warmed(tiny_models, 40, WorldSettings(history_noise=0.25))
    packed = []
    pack = tiny_models.transformer.pack
    monkeypatch.setattr(
        type(tiny_models.transformer), "pack", lambda _, history: packed.append(history) or pack(history)
    )
    for action in some_actions(2):
        noisy.step(action)
    assert [float(history.sigma) for history in packed] == [0.25, 0.25]
    past = clean.memory.recent(22)[0].float()
    seen = packed[0].recent[0]
    drawn = (seen - 0.75 * past) / 0.25
    assert float(drawn.mean()) == pytest.approx(0, abs=0.05)
    assert float(drawn.std()) == pytest.approx(1, abs=0.05)
    again = (packed[1].recent[0] - 0.75 * noisy.memory.recent(23)[0][:22].float()) / 0.25
    assert not torch.allclose(drawn, again, atol=0.1)
    assert not torch.equal(packed[0].recalled.latents, packed[1].recalled.latents)


def test_the_same_seed_makes_the_same_history_noise(tiny_models: WorldModels) -> None:
    settings = WorldSettings(history_noise=0.2)
    actions = some_actions(4)
    first, again = (play(tiny_models, 3, actions, settings)[1] for _ in range(2))
    assert same(first, again)
    assert not same(first, play(tiny_models, 3, actions)[1])


@pytest.mark.parametrize("layout_noise", [0.0, 0.3])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_guided_worlds_of_one_batch_are_each_alone(
    tiny_models: WorldModels, noise: float, layout_noise: float
) -> None:
    """Guidance doubles the batch inside a step; a world must be led away from its own veiled history only."""
    settings = WorldSettings(guidance=0.8, history_noise=noise, layout_noise=layout_noise)
    actions = some_actions(3)

    def alone(frames: int, told: WorldSettings) -> list[Section]:
        world = warmed(tiny_models, frames, told)
        return [world.step(action[None]) for action in actions[:, 0]]

    guided = [alone(frames, settings) for frames in (40, 6)]
    worlds = [warmed(tiny_models, frames, settings) for frames in (40, 6)]
    for step, action in enumerate(torch.from_numpy(actions)):
        for each, section in zip(guided, step_worlds(worlds, action.expand(2, -1, -1)), strict=True):
            torch.testing.assert_close(section.latents, each[step].latents, rtol=1e-2, atol=1e-3)
    plain = alone(40, WorldSettings(history_noise=noise))
    assert same(plain, alone(40, WorldSettings(history_noise=noise, guidance=0.0)))
    assert not same(plain, guided[0])


@pytest.mark.parametrize("level", [-0.1, 1.0])
def test_history_noise_that_leaves_nothing_is_refused(tiny_models: WorldModels, level: float) -> None:
    with pytest.raises(ValueError, match=f"history noise {level}"):
        World(tiny_models, WorldSettings(history_noise=level))
