"""The autoencoder's training: its loss, the discriminator's pull on it, and exact resume with both."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from models.autoencoder import FrameAutoencoder, to_signed
from models.discriminator import DiscriminatorSettings, PatchDiscriminator, hinge_loss
from worldsim.presets import tiny
from worldsim.training.autoencoder import (
    AutoencoderTrainer,
    AutoencoderTraining,
    autoencoder_loss,
    finish_autoencoder,
    picture_metrics,
)
from worldsim.training.loop import LoopSettings, TrainingLoop
from worldsim.training.processes import Processes

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))
FRAMES = torch.randint(256, (8, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
SETTINGS = AutoencoderTraining(
    data=Path("unused"),
    out=Path("unused"),
    preset="tiny",
    loop=LoopSettings(steps=12, warmup_steps=2, log_steps=6),
    batch=2,
    adversarial_weight=0.5,
    adversarial_after=4,
    discriminator=DiscriminatorSettings(channels=4),
    device="cpu",
)


def trainer_of(settings: AutoencoderTraining = SETTINGS, seed: int = 0) -> AutoencoderTrainer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FrameAutoencoder.of(tiny().autoencoder)
        judge = PatchDiscriminator.of(settings.discriminator) if settings.adversarial_weight else None
    return AutoencoderTrainer(model, judge, settings, ALONE)


def train(trainer: AutoencoderTrainer, folder: Path, loop: LoopSettings) -> dict[str, torch.Tensor]:
    """Train, and read what the state file holds at the end."""
    training = TrainingLoop("autoencoder", folder, trainer.state, loop, ALONE)
    training.train(lambda step: trainer.take_step(FRAMES, step))
    return load_file(training.path)


def test_autoencoder_loss_by_hand() -> None:
    """Squared and absolute error, edges, the half-size decoding and the pull to zero, each with its weight."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FrameAutoencoder.of(tiny().autoencoder).requires_grad_(False)
    frames = torch.randint(256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    settings = AutoencoderTraining(
        data=Path("unused"), out=Path("unused"), latent_noise=0.2, edge_weight=0.7, half_scale_weight=0.3,
    )  # fmt: skip
    truth = to_signed(frames)
    loss, made_there = autoencoder_loss(model, truth, settings, torch.Generator().manual_seed(2))
    raw = model.tiny.encoder(truth)
    noise = torch.randn(raw.shape, generator=torch.Generator().manual_seed(2))
    made = model.tiny.decoder(raw + 0.2 * noise)
    error = made - truth
    edges = torch.cat((error.diff(dim=2).flatten(), error.diff(dim=3).flatten())).abs().mean()
    half = functional.mse_loss(
        model.tiny.decoder(functional.avg_pool2d(raw, 2)), functional.avg_pool2d(truth, 2)
    )
    expected = error.square().mean() + 0.2 * error.abs().mean() + 0.7 * 0.2 * edges
    expected = expected + 0.3 * half + 1e-4 * raw.square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made_there, made, rtol=1e-4, atol=1e-5)


def test_both_networks_get_their_own_gradients() -> None:
    """Brute force over the whole graph: the autoencoder's gradient with the weighted adversarial loss in it, and the
    discriminator's without anything of the autoencoder's step in it."""
    trainer = trainer_of()
    for step in range(4):
        trainer.take_step(FRAMES, step)
    twin, judge = copy.deepcopy((trainer.model, trainer.adversary.discriminator))
    metrics = trainer.take_step(FRAMES, 4)
    generator = ALONE.generator(SETTINGS.seed, 4)
    truth = to_signed(FRAMES[torch.randint(8, (2,), generator=generator)])
    loss, made = autoencoder_loss(twin, truth, SETTINGS, generator)
    real_logits, made_logits = judge.judge(truth, made)
    adversarial = -made_logits.mean()
    torch.testing.assert_close(metrics["adversarial"], adversarial.detach(), rtol=1e-3, atol=1e-5)
    judges = list(judge.parameters())
    expected = torch.autograd.grad(hinge_loss(real_logits, made_logits), judges, retain_graph=True)
    for parameter, gradient in zip(trainer.adversary.parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    parameters = list(twin.parameters())
    (loss + 0.5 * adversarial).backward(inputs=parameters)
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for found, parameter in zip(trainer.parameters, parameters, strict=True):
        torch.testing.assert_close(found.grad, parameter.grad, rtol=1e-3, atol=1e-5)


def test_the_discriminator_is_listened_to_only_after_its_time() -> None:
    """Until then the autoencoder trains as without one, while the discriminator learns and every figure is logged."""
    alone, judged = trainer_of(replace(SETTINGS, adversarial_weight=0.0)), trainer_of()
    before = [parameter.detach().clone() for parameter in judged.adversary.parameters]
    for step in range(5):
        assert alone.take_step(FRAMES, step).keys() == {"loss", "psnr_db", "sharpness_ratio"}
        metrics = judged.take_step(FRAMES, step)
        assert {"adversarial", "discriminator_loss"} < metrics.keys()
        assert not any(value.requires_grad for value in metrics.values())
        pairs = list(zip(alone.parameters, judged.parameters, strict=True))
        assert all(torch.equal(*pair) for pair in pairs) == (step < 4)
    assert not any(torch.equal(*pair) for pair in zip(before, judged.adversary.parameters, strict=True))


def test_resumed_equals_straight_bit_for_bit(tmp_path: Path) -> None:
    """Both networks, their optimisers and the vectors of the spectral norm go on as if nothing had happened."""
    straight = train(trainer_of(), tmp_path / "straight", SETTINGS.loop)
    half = replace(SETTINGS.loop, max_minutes=1e-9)  # stops at the first log line
    first = trainer_of()
    train(first, tmp_path / "resumed", half)
    assert first.state.step == 6
    resumed = train(trainer_of(seed=99), tmp_path / "resumed", half)
    assert resumed.keys() == straight.keys()
    assert [name for name in straight if not torch.equal(resumed[name], straight[name])] == []
    assert any(name.startswith("judge.") and name.endswith("._u") for name in straight)
    assert any(name.startswith("optimizer.1.") for name in straight)


def test_another_weight_of_the_discriminator_may_resume_but_none_may_not(tmp_path: Path) -> None:
    """A state with a discriminator cannot go on without it: the line says so instead of a traceback."""
    train(trainer_of(), tmp_path, replace(SETTINGS.loop, steps=2))
    train(trainer_of(replace(SETTINGS, adversarial_weight=0.2)), tmp_path, replace(SETTINGS.loop, steps=4))
    with pytest.raises(ValueError, match="is of another model than the settings describe"):
        train(trainer_of(replace(SETTINGS, adversarial_weight=0.0)), tmp_path, SETTINGS.loop)


def test_the_checkpoint_is_the_averaged_autoencoder_alone(tmp_path: Path) -> None:
    """The discriminator is a tool of training: it must neither ship nor leave a trace in the file."""
    trainer = trainer_of()
    state = train(trainer, tmp_path, SETTINGS.loop)
    finish_autoencoder(trainer.model, trainer.state, FRAMES, replace(SETTINGS, out=tmp_path), ALONE)
    kept = load_file(tmp_path / "checkpoint" / "autoencoder" / "diffusion_pytorch_model.safetensors")
    prefix = "average."
    averages = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    assert kept.keys() == averages.keys() | {"latent_mean", "latent_std"}
    assert all(torch.equal(kept[name], averages[name].bfloat16()) for name in averages)


def test_sharpness_is_the_share_of_gradient_energy() -> None:
    """Half the contrast is a quarter of the energy; flat truth must not end a training with a NaN."""
    truth = to_signed(FRAMES)
    assert float(picture_metrics(truth / 2, truth)["sharpness_ratio"]) == pytest.approx(0.25)
    flat = torch.zeros_like(truth)
    assert all(bool(value.isfinite()) for value in picture_metrics(truth, flat).values())


def test_negative_weights_are_refused() -> None:
    """A sign error would train the decoder to be found out."""
    with pytest.raises(ValueError, match=r"adversarial_weight -0\.1 is too small; give 0 or more"):
        replace(SETTINGS, adversarial_weight=-0.1)
