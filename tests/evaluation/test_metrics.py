import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from worldsim.evaluation import metrics


def some_frames(count: int, seed: int) -> torch.Tensor:
    """Smooth random pictures with noise on top, the last one flat."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 6, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    frames = np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)
    frames[-1] = 90
    return torch.from_numpy(frames)


def test_psnr_and_ssim_agree_with_skimage():
    """Guards against a wrong window, border, channel order or data range in the batched versions."""
    truth = some_frames(5, seed=0)
    made = truth.int() + torch.randint(-40, 41, truth.shape, generator=torch.Generator().manual_seed(1))
    made = made.clamp(0, 255).to(torch.uint8)
    for index in range(len(truth)):
        a, b = truth[index].numpy(), made[index].numpy()
        want = structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=-1,
        )
        assert metrics.ssim(made, truth)[index].item() == pytest.approx(want, abs=1e-5)
        assert metrics.psnr(made, truth)[index].item() == pytest.approx(
            peak_signal_noise_ratio(a, b, data_range=255), abs=1e-3
        )


def test_equal_frames_give_finite_figures():
    """Guards against infinite PSNR or an SSIM other than one on flat equal frames poisoning a mean."""
    frames = some_frames(3, seed=2)
    assert metrics.psnr(frames, frames).tolist() == [metrics.PSNR_CEILING_DB] * 3
    assert torch.allclose(metrics.ssim(frames, frames), torch.ones(3))


def test_ssim_refuses_tiny_frames():
    """Guards against a convolution error nobody can read."""
    with pytest.raises(ValueError, match="8x64 are smaller"):
        metrics.ssim(torch.zeros(1, 8, 64, 3, dtype=torch.uint8), torch.zeros(1, 8, 64, 3, dtype=torch.uint8))


def test_blur_lowers_sharpness_and_not_brightness():
    """Guards against sharpness measuring anything but fine gradients."""
    truth = some_frames(4, seed=3)[:3]
    planes = truth.permute(0, 3, 1, 2).float()
    blurred = torch.nn.functional.avg_pool2d(planes, 5, 1, 2, count_include_pad=False)
    blurred = blurred.round().to(torch.uint8).permute(0, 2, 3, 1)
    assert (metrics.sharpness(blurred) < 0.5 * metrics.sharpness(truth)).all()
    assert torch.allclose(metrics.brightness(blurred), metrics.brightness(truth), atol=0.01)


def test_known_values_of_simple_pictures():
    """Guards against a wrong unit: half black half white, one pure red frame, one grey step of 51/255."""
    split = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    split[:, :, 16:] = 255
    assert metrics.brightness(split).item() == pytest.approx(0.5)
    assert metrics.contrast(split).item() == pytest.approx(0.5)
    assert metrics.sharpness(split).item() == pytest.approx(1 / 31)
    red = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    red[..., 0] = 255
    # M3 = 0.3 * sqrt(255^2 + 127.5^2) as nothing varies over the frame.
    assert metrics.colourfulness(red).item() == pytest.approx(0.3 * np.hypot(255, 127.5), rel=1e-5)
    assert metrics.colourfulness(split).item() == pytest.approx(0.0)
    grey = torch.full((1, 32, 32, 3), 51, dtype=torch.uint8)
    assert metrics.motion(grey, torch.zeros_like(grey)).item() == pytest.approx(0.2)


def test_colourfulness_by_hand():
    """Guards against swapped opponent axes: checked against the formula in numpy."""
    frames = some_frames(2, seed=4)
    red, green, blue = (frames[0, ..., channel].numpy().astype(float) for channel in range(3))
    rg, yb = red - green, (red + green) / 2 - blue
    want = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert metrics.colourfulness(frames)[0].item() == pytest.approx(want, rel=1e-4)


def test_flat_frames_are_found():
    """Guards against the collapse detector firing on real play or missing a frame of one colour."""
    frames = some_frames(5, seed=5)
    contrast = metrics.contrast(frames)
    assert metrics.is_flat(contrast, contrast).tolist() == [False] * 4 + [True]
