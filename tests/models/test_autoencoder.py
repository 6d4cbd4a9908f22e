"""The autoencoder's shapes, statistics and limits."""

from pathlib import Path

import pytest
import torch

from models.autoencoder import FrameAutoencoder, to_signed
from worldsim.presets import tiny


@pytest.fixture(scope="module")
def autoencoder() -> FrameAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FrameAutoencoder.of(tiny().autoencoder)
    return model.eval().requires_grad_(False)


def frames(count: int = 3, height: int = 32, width: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def test_frames_shrink_by_eight_and_come_back(autoencoder: FrameAutoencoder) -> None:
    """Latent cells are what schedule and transformer count in."""
    latents = autoencoder.encode_frames(frames())
    assert latents.shape == (3, 4, 4, 6)
    made = autoencoder.decode_frames(latents)
    assert made.shape == (3, 32, 48, 3)
    assert made.dtype == torch.uint8


def test_fitted_statistics_normalise_latents(autoencoder: FrameAutoencoder) -> None:
    """The flow mixes latents with unit noise: without mean 0 and deviation 1 sigma means nothing."""
    model = FrameAutoencoder.from_config(autoencoder.config)
    model.load_state_dict(autoencoder.state_dict())
    raw = model.tiny.encoder(to_signed(frames(8))).detach()
    before = model.decode_frames(raw)
    model.fit_statistics(raw)
    latents = model.encode_frames(frames(8))
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    after = model.decode_frames(latents)
    assert int((after.int() - before.int()).abs().max()) <= 1


def test_signed_range() -> None:
    """0 -> -1 and 255 -> 1: the decoder's own scale, channels first."""
    image = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    image[0, 2, 5] = torch.tensor([255, 0, 51])
    signed = to_signed(image)
    assert signed.shape == (1, 3, 8, 8)
    torch.testing.assert_close(signed[0, :, 2, 5], torch.tensor([1.0, -1.0, -0.6]))


def test_decoding_clamps(autoencoder: FrameAutoencoder) -> None:
    """Values beyond the range must not wrap around in uint8: that shows as black specks in white walls."""
    latents = 100 * torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    values = autoencoder.tiny.decoder(autoencoder.denormalise(latents)).permute(0, 2, 3, 1)
    made = autoencoder.decode_frames(latents)
    assert bool((made[values > 1] == 255).all())
    assert bool((made[values < -1] == 0).all())
    assert bool((values.abs() > 1).any())


@pytest.mark.parametrize(("height", "width"), [(33, 48), (32, 47)])
def test_other_sizes_are_refused_in_one_line(autoencoder: FrameAutoencoder, height: int, width: int) -> None:
    """A frame of 100x75 would come back as 104x80."""
    with pytest.raises(ValueError, match=f"{width}x{height} do not divide by 8") as caught:
        autoencoder.encode_frames(frames(1, height, width))
    assert "\n" not in str(caught.value)


def test_saved_and_loaded_is_the_same_network(autoencoder: FrameAutoencoder, tmp_path: Path) -> None:
    """The statistics are part of the weights: a checkpoint without them decodes grey mud."""
    model = FrameAutoencoder.from_config(autoencoder.config)
    model.load_state_dict(autoencoder.state_dict())
    model.fit_statistics(torch.randn(4, 4, 4, 6, generator=torch.Generator().manual_seed(1)) * 3 + 1)
    model.save_pretrained(tmp_path)
    loaded = FrameAutoencoder.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert torch.equal(loaded.latent_mean, model.latent_mean)
    assert torch.equal(loaded.encode_frames(frames()), model.encode_frames(frames()))
