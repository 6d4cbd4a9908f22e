"""Planned ends and inverted sampling: what every section is told of what lies behind it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.history import History
from worldsim.checkpoint import WorldModels
from worldsim.evaluation.rollouts import Beginning, roll_out
from worldsim.inverted import roll_out_inverted
from worldsim.planning import PlanSettings, roll_out_planned
from worldsim.presets import tiny
from worldsim.recall import ACTION_STEPS
from worldsim.world import World, WorldSettings


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Callable[[WorldModels], list[History]]:
    """The histories that a model is given, in order."""

    def listen(models: WorldModels) -> list[History]:
        seen: list[History] = []
        pack = type(models.transformer).pack
        monkeypatch.setattr(
            type(models.transformer), "pack", lambda model, past: seen.append(past) or pack(model, past)
        )
        return seen

    return listen


def models_for(models_of, schedule: str) -> WorldModels:
    codes = 8 if schedule.endswith("+D") else 0
    preset = replace(tiny(), transformer=replace(tiny().transformer, schedule=schedule, codes=codes))
    steps = ACTION_STEPS + preset.schedule.section
    return models_of(replace(preset, descriptor=replace(preset.descriptor, steps=steps)))


def begun(models: WorldModels, frames: int, seed: int = 0, mode: str = "hybrid") -> World:
    """A world of that many random frames."""
    generator = torch.Generator().manual_seed(seed)
    world = World(models, WorldSettings(memory_mode=mode), seed=seed)
    actions = torch.randint(3, (frames, 3), generator=generator)
    world.observe(torch.randn(frames, 4, 12, 16, generator=generator), actions)
    return world


def some_actions(batch: int, time: int) -> torch.Tensor:
    return torch.randint(3, (batch, time, 3), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(("section", "ends"), [(1, 1), (2, 1), (1, 2)])
def test_every_section_is_led_to_its_end(models_of, packed, section: int, ends: int) -> None:
    """Ends are made first, from afar; sections see them at the right distance, and then they come true."""
    models = models_for(models_of, f"td_f4k2f1k1_r1k1_g{section}_x_f1k1")
    worlds = [begun(models, 30, seed) for seed in (0, 1)]
    seen = packed(models)
    made = list(roll_out_planned(worlds, some_actions(2, 14), PlanSettings(every=6, ends=ends)))
    assert len(made) == 14 // section
    assert [len(world.memory) for world in worlds] == [44, 44]
    kept = torch.stack([world.memory.latents(list(range(44))) for world in worlds]).float()
    frames = torch.cat([torch.stack([one.latents for one in each]) for each in made], 1)
    torch.testing.assert_close(frames, kept[:, 30:], rtol=1e-2, atol=1e-2)
    planned = []
    for past in seen:
        known = 1 + int((kept[0] == past.recent[0, -1].float()).flatten(1).all(1).nonzero())
        if not past.last.present.any():
            planned.append(known + int(past.gap[0]))
        else:
            end = min(frame for frame in planned if frame > known)
            assert past.last.present.all()
            assert past.last.ages.tolist() == [[end - (known + section - 1)]] * 2
            torch.testing.assert_close(past.last.latents[:, 0].float(), kept[:, end], rtol=1e-2, atol=1e-2)
    assert planned == [36 - section, 42 - section, 44 - section]
    assert len(seen) == len(made)


def test_a_remembered_place_is_the_end(models_of, packed) -> None:
    """Where the actions lead back to what memory holds: that frame, by its number; elsewhere nothing is planned."""
    models = models_for(models_of, "td_f4k2f1k1_r1k1_g1_x_f1k1")
    models.odometer.step.mlp[-1].bias[0] = -100.0  # nothing ever stands in the way
    world = begun(models, 10)
    walk = [[1, 0, 0]] * 30 + [[2, 0, 0]] * 30
    seen = packed(models)
    actions = torch.tensor([walk])
    list(roll_out_planned([world], actions, PlanSettings(every=30, remembered=True, nearness=0.3)))
    assert not any(past.last.present.any() or past.gap.any() for past in seen[:30])
    assert all(bool(past.last.present.all()) for past in seen[30:])
    ends = torch.stack([past.last.latents[0, 0].float() for past in seen[30:]])
    assert torch.equal(ends[0], ends[-1])
    number = int((world.memory.latents(list(range(40))).float() == ends[0]).flatten(1).all(1).nonzero())
    away = (world.memory.poses[[number]] - world.memory.poses[[69]])[0, :2].norm()
    assert float(away) < 60 < float((world.memory.poses[[39]] - world.memory.poses[[69]])[0, :2].norm())
    assert [int(past.last.ages) for past in seen[30:]] == list(range(30, 0, -1))


@pytest.mark.parametrize(
    ("schedule", "settings", "line"),
    [
        ("td_f4k2f1k1_r1k1_g1", PlanSettings(), r"plans no end; it needs one like"),
        ("td_f4k2f1k1_g2_x_f1k1", PlanSettings(every=3), r"every 3 frames .* multiple of 2 from 4 on"),
        ("td_f4k2f1k1_g1_x_f1k1", PlanSettings(every=1), r"every 1 frames .* from 2 on"),
    ],
)
def test_plans_that_cannot_be(models_of, schedule: str, settings: PlanSettings, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        next(roll_out_planned([begun(models_for(models_of, schedule), 9)], some_actions(1, 8), settings))


@pytest.mark.parametrize("section", [1, 3])
def test_inverted_sections_see_what_follows_them(models_of, packed, section: int) -> None:
    """From last to first: the frames made before lie right behind, the first one as far back as it is."""
    models = models_for(models_of, f"f1k1_x_g{section}_f1k1f4k2_td")
    worlds = [begun(models, 1, seed) for seed in (0, 1)]
    actions = some_actions(2, 12)
    seen = packed(models)
    made = roll_out_inverted(worlds, actions)
    frames = torch.cat([torch.stack([one.latents for one in each]) for each in made], 1)
    assert frames.shape[1] == 12
    assert len(seen) == 12 // section
    for i, past in enumerate(seen):
        first = 12 - section * (i + 1)
        behind = frames[:, first + section : first + section + 5]
        count = behind.shape[1]
        assert past.recent.shape[1] == 0
        assert past.first.ages.tolist() == [[first + 1]] * 2
        assert past.coming.present.sum(1).tolist() == [count] * 2
        torch.testing.assert_close(past.coming.latents[:, :count].float(), behind)
        assert torch.equal(past.coming_actions[:, :count], actions[:, first + section :][:, :count])
        assert past.coming.ages[0, :count].tolist() == list(range(1, count + 1))
    again = roll_out_inverted([begun(models, 1, seed) for seed in (0, 1)], actions)
    assert all(np.array_equal(a[0].frames_u8, b[0].frames_u8) for a, b in zip(made, again, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "td_f16k4f2k2f1k1_g9",
        "ta_f16k4f2k2f1k1_g9+D",
        "tc_f16k4f4k2f1k1_g9",
        "td_f16k4f4k2f1k1_g9_x_f1k1",
        "f1k1_x_g9_f1k1f4k2f16k4_td",
    ],
)
def test_the_papers_strings_roll_out(models_of, text: str) -> None:
    """Vanilla, endpoint and inverted sampling in sections of nine, as evaluations and worldsim rollout make them."""
    models = models_for(models_of, text)
    frames, actions = 30, some_actions(1, 27)
    beginning = Beginning(
        history=torch.randn(frames, 4, 12, 16, generator=torch.Generator().manual_seed(0)),
        history_actions=some_actions(1, frames)[0].numpy(),
        actions=actions[0].numpy(),
        history_followed=None,
        true_history_poses=torch.zeros(frames, 3),
        true_coming_poses=torch.zeros(27, 3),
        seed=0,
    )
    plan = PlanSettings(every=18)
    [first], [again] = (roll_out(models, [beginning], WorldSettings(), plan) for _ in range(2))
    assert first.frames_u8.shape == (27, 96, 128, 3)
    assert first.latents.shape == (27, 4, 12, 16)
    assert torch.equal(first.frames_u8, again.frames_u8)
    assert float(first.latents.std()) > 0.1


def test_inverted_sampling_is_refused_where_it_cannot_be(models_of) -> None:
    models = models_for(models_of, "f1k1_x_g1_f1k1_td")
    with pytest.raises(ValueError, match=r"worlds of \[5\] frames; .* first 1"):
        roll_out_inverted([begun(models, 5)], some_actions(1, 4))
    with pytest.raises(ValueError, match=r"cannot be played; use worldsim rollout"):
        begun(models, 5).step(np.zeros((1, 3), np.int64))
    forward = models_for(models_of, "td_f4k2f1k1_r1k1_g1")
    with pytest.raises(ValueError, match=r"is not inverted; it needs one like"):
        roll_out_inverted([begun(forward, 1)], some_actions(1, 4))
