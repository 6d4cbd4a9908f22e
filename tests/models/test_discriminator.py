"""The patch discriminator: what a logit sees, that it learns, its weights' norm, and the losses' arithmetic."""

import pytest
import torch

from models.discriminator import (
    DiscriminatorSettings,
    PatchDiscriminator,
    hinge_loss,
)


@pytest.fixture
def discriminator() -> PatchDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PatchDiscriminator.of(DiscriminatorSettings(channels=8))


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_logit_sees_a_patch_of_34_pixels(discriminator: PatchDiscriminator) -> None:
    """Texture is judged, not the picture: the map of logits covers 96 × 128 pixels every four of them."""
    frames = noise(0, 1, 3, 96, 128).requires_grad_()
    logits = discriminator(frames)
    assert logits.shape == (1, 1, 22, 30)
    logits[0, 0, 11, 15].backward()
    seen = frames.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [34, 34]


def test_it_learns_to_tell_noise_from_blur(discriminator: PatchDiscriminator) -> None:
    """What it is for: after some steps of the hinge loss it is sure of most patches, new ones too."""
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.9))

    def judged(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        sharp = noise(seed, 4, 3, 32, 32)
        return discriminator.judge(sharp, torch.nn.functional.avg_pool2d(sharp, 5, 1, 2))

    first = float(hinge_loss(*judged(1000)).detach())
    for step in range(60):
        optimizer.zero_grad()
        hinge_loss(*judged(step)).backward()
        optimizer.step()
    real_logits, made_logits = judged(1001)
    assert first == pytest.approx(2, abs=0.2)
    assert float(hinge_loss(real_logits, made_logits).detach()) < 0.5
    assert bool((real_logits > 0).all())
    assert bool((made_logits < 0).all())


def test_weights_keep_spectral_norm_one(discriminator: PatchDiscriminator) -> None:
    """The discriminator's slope stays bounded however large the weights beneath grow."""
    with torch.no_grad():
        for layer in discriminator.layers[::2]:
            layer.parametrizations.weight.original.mul_(100)
        for _ in range(50):
            discriminator(noise(0, 1, 3, 32, 32))
    discriminator.eval()
    for layer in discriminator.layers[::2]:
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(
            1, abs=0.01
        )


def test_judging_takes_one_power_iteration(discriminator: PatchDiscriminator) -> None:
    """Real and made frames must meet the same weights, and processes the same number of iterations."""
    frames = noise(0, 2, 3, 32, 32)
    real_logits, made_logits = discriminator.judge(frames, frames)
    assert torch.equal(real_logits, made_logits)


def test_autocast_leaves_the_norm_in_float32(discriminator: PatchDiscriminator) -> None:
    """Convolutions in bfloat16, the division by the norm and the logits that the loss takes in float32."""
    frames = noise(0, 1, 3, 32, 32)
    exact = discriminator.eval().judge(frames, frames)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert discriminator(frames).dtype == torch.bfloat16
        rounded = discriminator.judge(frames, frames)[0]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0)


def test_hinge_loss_by_hand() -> None:
    """Patches beyond the margin cost nothing: (0 + 1.5)/2 and (0.5 + 3)/2."""
    loss = hinge_loss(torch.tensor([2.0, -0.5]), torch.tensor([-0.5, 2.0]))
    assert float(loss) == pytest.approx(0.75 + 1.75)
