"""The loop and the state: resuming exactly, stopping at NaN, refusing what is torn."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldsim.training.loop import LoopSettings, TrainingLoop, learning_rate_factor
from worldsim.training.self_rollout import SelfRolloutSettings
from worldsim.training.state import TrainingState, WeightAverage

SETTINGS = LoopSettings(steps=24, warmup_steps=5, log_steps=12, save_minutes=1e-9)
OWN = SelfRolloutSettings(share=0.5, after_steps=6, length=6)


def run(trainer, folder: Path, settings: LoopSettings = SETTINGS) -> dict[str, torch.Tensor]:
    """Train, and read what the state file holds at the end."""
    loop = TrainingLoop("model", folder, trainer.state, settings, trainer.processes)
    loop.train(trainer.take_step)
    return load_file(loop.path)


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert different == []


def test_resumed_equals_straight_bit_for_bit(trainer_of, training_of, tmp_path: Path) -> None:
    """Weights, average, both optimisers, learning rate, own histories and random numbers must all go on as if
    nothing had happened: a training that is cut off and resumed is the same training."""
    settings = training_of(own_frames=OWN)
    straight = run(trainer_of(settings), tmp_path / "straight")
    half = replace(SETTINGS, max_minutes=1e-9)  # stops at the first log line
    interrupted = trainer_of(settings)
    run(interrupted, tmp_path / "resumed", half)
    assert interrupted.state.step == 12
    torch.rand(7)
    other_start = trainer_of(settings, seed=99)
    resumed = run(other_start, tmp_path / "resumed", half)
    assert other_start.state.step == 24
    assert_same(resumed, straight)
    assert {name.split(".")[0] for name in straight} == {"module", "average", "optimizer"}
    assert any(name.endswith("momentum_buffer") for name in straight)
    assert any(name.endswith("exp_avg_sq") for name in straight)


def test_a_kill_between_saves_costs_only_the_steps_since(trainer_of, training_of, tmp_path: Path) -> None:
    """kill -9 at step 17: the state of step 12 is on disk, whole, and leads to the same end."""
    settings = training_of(own_frames=OWN)
    straight = run(trainer_of(settings), tmp_path / "straight")
    victim = trainer_of(settings)

    class KilledError(Exception):
        pass

    def dies(step: int) -> dict[str, torch.Tensor]:
        if step == 17:
            raise KilledError
        return victim.take_step(step)

    loop = TrainingLoop("model", tmp_path / "killed", victim.state, SETTINGS, victim.processes)
    with pytest.raises(KilledError):
        loop.train(dies)
    resumed = trainer_of(settings, seed=99)
    assert_same(run(resumed, tmp_path / "killed"), straight)


def test_finished_training_does_nothing_more(trainer_of, training_of, tmp_path: Path) -> None:
    """Running the command again after the end must not spoil the weights."""
    first = run(trainer_of(training_of()), tmp_path, replace(SETTINGS, steps=12))
    again = trainer_of(training_of(), seed=5)
    assert_same(run(again, tmp_path, replace(SETTINGS, steps=12)), first)


def test_minutes_go_on_counting(trainer_of, training_of, tmp_path: Path) -> None:
    """`total_minutes` is over all runs: it must be stored, and end the training."""
    settings = replace(SETTINGS, total_minutes=1e-7)
    trainer = trainer_of(training_of())
    run(trainer, tmp_path, settings)
    assert trainer.state.step == 12
    again = trainer_of(training_of())
    loop = TrainingLoop("model", tmp_path, again.state, settings, again.processes)
    assert again.state.minutes == pytest.approx(trainer.state.minutes)
    assert again.state.minutes > 1e-7
    loop.writer.close()


@pytest.mark.parametrize("poison", ["rate", "latents"])
def test_nan_stops_with_one_line_and_keeps_the_last_good_state(
    trainer_of, training_of, episodes_of, tmp_path: Path, poison: str
) -> None:
    """Weights that have become NaN must not overwrite the ones that had not."""
    good = run(trainer_of(training_of()), tmp_path, replace(SETTINGS, max_minutes=1e-9))
    episodes = episodes_of()
    if poison == "latents":
        episodes.latents[:, 40] = math.nan
        trainer = trainer_of(training_of(), episodes)
    else:
        trainer = trainer_of(training_of(learning_rate=1e30))
    with pytest.raises(
        ValueError, match=r"^model: \w+ is (nan|inf) near step 24; .*lower the learning rate"
    ) as caught:
        run(trainer, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "state" / "model.safetensors") in str(caught.value)
    assert_same(load_file(tmp_path / "state" / "model.safetensors"), good)


def test_torn_states_are_named(trainer_of, training_of, tmp_path: Path) -> None:
    """A disk that filled up or a copy cut short: the line must say what to delete."""
    run(trainer_of(training_of()), tmp_path, replace(SETTINGS, max_minutes=1e-9))
    path = tmp_path / "state" / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 5, 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model.safetensors is torn; delete it to start") as caught:
            run(trainer_of(training_of()), tmp_path)
        assert str(path) in str(caught.value)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"model.safetensors is not a training state of this version"):
        run(trainer_of(training_of()), tmp_path)


def test_state_of_another_model_is_refused(trainer_of, training_of, tmp_path: Path) -> None:
    """Another preset in the same folder: it must not half-load."""
    other = torch.nn.Linear(3, 2)
    TrainingState(other, [torch.optim.AdamW(other.parameters())]).save(
        tmp_path / "state" / "model.safetensors"
    )
    with pytest.raises(
        ValueError, match=r"is of another model than the settings describe; .*another --out"
    ) as caught:
        run(trainer_of(training_of()), tmp_path)
    assert "\n" not in str(caught.value)


def test_saving_leaves_no_parts_and_survives_a_failed_write(tmp_path: Path) -> None:
    """The old state must stay until the new one is whole."""
    module = torch.nn.Linear(3, 2)
    state = TrainingState(module, [torch.optim.AdamW(module.parameters())])
    state.step = 4
    path = tmp_path / "state" / "x.safetensors"
    state.save(path)
    content = path.read_bytes()
    state.average.tensors["broken"] = "not a tensor"  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        state.save(path)
    assert path.read_bytes() == content
    assert [item.name for item in path.parent.iterdir()] == ["x.safetensors"]
    length = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + length])["__metadata__"]["step"] == "4"


def test_weight_average_by_hand() -> None:
    """a ← d a + (1 − d) w with d = min(decay, (1 + step) / (10 + step)): early steps are soon forgotten."""
    module = torch.nn.Linear(2, 2)
    average = WeightAverage(module, decay=0.5)
    expected = module.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            module.weight.normal_(generator=torch.Generator().manual_seed(step))
        average.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(average.tensors["weight"], expected)
    average.copy_to(module)
    assert torch.equal(module.weight, average.tensors["weight"])


def test_learning_rate_warms_up_holds_and_falls() -> None:
    """Warmup over the first steps, full height, linear fall over the last fifth to 2 %."""
    settings = LoopSettings(steps=1000, warmup_steps=100)
    factors = [learning_rate_factor(step, 0.0, settings) for step in range(1000)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[49] == pytest.approx(0.5)
    assert factors[99:801] == pytest.approx([1.0] * 702)
    assert factors[900] == pytest.approx(0.5)
    assert factors[-1] == pytest.approx(0.02)
    assert min(factors[800:]) == pytest.approx(0.02)


def test_learning_rate_falls_over_the_cooldown() -> None:
    """A short training that never cools down ends on the noise of its last batches."""
    settings = LoopSettings(steps=1000, warmup_steps=1, cooldown=0.5)
    factors = [learning_rate_factor(step, 0.0, settings) for step in (0, 500, 750, 999)]
    assert factors == pytest.approx([1, 1, 0.5, 0.02])


def test_learning_rate_falls_with_the_minutes_where_they_are_scarce() -> None:
    """With a time limit the fall must come before time is up, whatever step that is."""
    settings = LoopSettings(steps=10**6, warmup_steps=1, total_minutes=10.0)
    factors = [learning_rate_factor(5, minutes, settings) for minutes in (0.0, 8.0, 9.0, 9.999, 12.0)]
    assert factors == pytest.approx([1, 1, 0.5, 0.02, 0.02])


def test_every_group_follows_the_learning_rate(trainer_of, training_of, tmp_path: Path) -> None:
    """Muon and AdamW have rates of their own; a resumed run must start from them, not from the faded ones."""
    trainer = trainer_of(training_of(learning_rate=1e-3))
    loop = TrainingLoop("model", tmp_path, trainer.state, SETTINGS, trainer.processes)
    for step, factor in ((0, 0.2), (10, 1.0), (23, 1 / 24 / 0.2)):
        trainer.state.step = step
        loop.set_learning_rate()
        rates = [group["lr"] for optimizer in trainer.state.optimizers for group in optimizer.param_groups]
        assert rates == pytest.approx([1e-3 * factor] * len(rates))
    loop.writer.close()


@pytest.mark.parametrize("name", ["steps", "log_steps", "preview_steps", "warmup_steps"])
def test_impossible_settings_are_refused(name: str) -> None:
    """`--loop.warmup-steps 0` divided by zero after minutes of reading episodes."""
    with pytest.raises(ValueError, match=f"{name} 0 is too small"):
        LoopSettings(**{name: 0})
    with pytest.raises(ValueError, match=r"total_minutes 0.0 is not above 0; leave it out"):
        LoopSettings(total_minutes=0.0)


def test_log_lines_reach_tensorboard(trainer_of, training_of, tmp_path: Path) -> None:
    """The writer buffers: what is not flushed at the end of a training is lost."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(trainer_of(training_of()), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "model"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [12, 24]
