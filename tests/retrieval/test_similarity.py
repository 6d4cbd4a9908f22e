"""The formulas against plain numpy loops."""

import math

import numpy as np
import pytest
import torch

from retrieval import exponential_time, gaussian_time, hybrid, latent_cosine, paper_hybrid


def test_latent_cosine_is_the_mean_over_pixels_of_each_pixels_cosine():
    """Guards against normalising the whole frame instead of each latent pixel, which is another formula."""
    rng = np.random.default_rng(0)
    frames, query = rng.standard_normal((5, 4, 2, 3)), rng.standard_normal((4, 2, 3))
    expected = [
        np.mean(
            [
                frame[:, y, x]
                @ query[:, y, x]
                / np.linalg.norm(frame[:, y, x])
                / np.linalg.norm(query[:, y, x])
                for y in range(2)
                for x in range(3)
            ]
        )
        for frame in frames
    ]
    result = latent_cosine(torch.from_numpy(frames), torch.from_numpy(query))
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    same = latent_cosine(torch.from_numpy(frames[:1]), torch.from_numpy(frames[0] * 7))
    assert same.item() == pytest.approx(1, abs=1e-6)


def test_time_terms():
    """Guards against mixing up seconds with frames, or a Gaussian with an exponential."""
    times_s = torch.tensor([0.0, 1.0, 2.5])
    expected = [math.exp(-(2.0**2)), math.exp(-1.0), math.exp(-0.25)]
    assert gaussian_time(times_s, 2.0).tolist() == pytest.approx(expected)
    ages = torch.tensor([0.0, 10.0, 30.0])
    assert exponential_time(ages, 10.0).tolist() == pytest.approx([1, math.exp(-1), math.exp(-3)])
    with pytest.raises(ValueError, match="time_constant 0"):
        exponential_time(ages, 0.0)


def test_hybrid_adds_the_weighted_time():
    """Guards against weighting the cosine instead of the time."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(3, 4, 2, 3, generator=generator)
    times_s = torch.tensor([0.0, 1.0, 2.0])
    expected = hybrid(latent_cosine(frames, frames[1]), gaussian_time(times_s, 2.5), 0.5)
    torch.testing.assert_close(paper_hybrid(frames, times_s, frames[1], 2.5, 0.5), expected)
    assert expected[1].item() == pytest.approx(1 + 0.5 * math.exp(-(1.5**2)), abs=1e-6)
