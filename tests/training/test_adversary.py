"""The world model's adversary: what it judges, that it pulls, and that a training with it resumes exactly."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from models.flow import draw_sigmas
from worldsim.training.loop import TrainingLoop
from worldsim.training.self_rollout import SelfRolloutSettings

ADVERSE = {"adversarial_weight": 0.5, "adversarial_after": 2}


def test_it_judges_the_guess_from_the_least_noise(trainer_of, training_of) -> None:
    """x_0 is guessed wrongly by sigma times the velocity's error, of the draw whose sigma is the lowest."""
    trainer = trainer_of(training_of(draws=3))
    batch = trainer.batches.draw(0, torch.Generator().manual_seed(0))
    model = trainer.model
    cache = model.encode_history(model.pack(batch.history), batch.history.sigma)
    errors, guess = trainer._errors(cache, batch.coming, batch.actions, torch.Generator().manual_seed(1))
    sigma = draw_sigmas(len(batch.coming), 3, trainer.settings.shift, torch.Generator().manual_seed(1))
    assert torch.equal(sigma.argmin(1), torch.zeros(len(sigma), dtype=torch.int64))
    missed = (guess - batch.coming).square().flatten(1).mean(1)
    torch.testing.assert_close(missed, sigma[:, 0] ** 2 * errors[:, 0], rtol=1e-3, atol=1e-6)


def test_it_is_listened_to_only_after_its_time(trainer_of, training_of) -> None:
    """Until then the model trains as without one; from then on its judgement counts."""
    plain = training_of(own_frames=SelfRolloutSettings(after_steps=10**6, length=6))
    alone, judged = trainer_of(plain), trainer_of(replace(plain, **ADVERSE))
    for step in range(3):
        assert not alone.take_step(step).keys() & {"adversarial", "discriminator_loss"}
        metrics = judged.take_step(step)
        pairs = zip(alone.parameters, judged.parameters, strict=True)
        assert all(torch.equal(*pair) for pair in pairs) == (step < 2)
    assert not any(value.requires_grad for value in metrics.values())


def test_the_term_is_the_weighted_adversarial_loss(trainer_of, training_of) -> None:
    """Brute force: the gradient of the term is that of −logits, times the weight."""
    trainer = trainer_of(training_of(**ADVERSE))
    last, adversary = trainer.model.refiner.leave.weight, trainer.adversary
    batch = trainer.batches.draw(0, torch.Generator().manual_seed(0))
    cache = trainer.model.encode_history(trainer.model.pack(batch.history), batch.history.sigma)
    _, guess = trainer._errors(cache, batch.coming, batch.actions, torch.Generator().manual_seed(1))
    made, truth = guess.flatten(0, 1), batch.coming.flatten(0, 1)
    adversary.discriminator.eval()  # without power iterations both passes meet the same weights
    expected = -adversary.discriminator(made).mean()
    (pull,) = torch.autograd.grad(expected, last, retain_graph=True)
    assert float(pull.norm()) > 0
    term, _ = adversary.judge(made, truth, step=2)
    (found,) = torch.autograd.grad(term, last)
    torch.testing.assert_close(found, 0.5 * pull, rtol=1e-3, atol=1e-6)


def test_resumed_equals_straight_bit_for_bit(trainer_of, training_of, tmp_path: Path) -> None:
    """Both networks and both their optimisers go on as if nothing had happened; the average is the model's alone."""
    settings = training_of(**ADVERSE)

    def train(name: str, minutes: float | None, seed: int = 0) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            trainer = trainer_of(settings, seed=seed)
        loop = replace(settings.loop, steps=24, max_minutes=minutes)  # a limit stops at the first log line
        training = TrainingLoop("model", tmp_path / name, trainer.state, loop, trainer.processes)
        training.train(trainer.take_step)
        return load_file(training.path)

    straight = train("straight", None)
    train("resumed", 1e-9)
    resumed = train("resumed", None, seed=99)
    assert resumed.keys() == straight.keys()
    assert [name for name in straight if not torch.equal(resumed[name], straight[name])] == []
    assert any(name.startswith("judge.") for name in straight)
    assert not any("judge" in name for name in straight if name.startswith("average."))
