import numpy as np
import pytest

from worldsim.evaluation.bootstrap import cluster_bootstrap, ratio_bootstrap


def test_interval_covers_the_known_mean_about_95_percent_of_the_time():
    """Guards against resampling single starts: with strong map effects that covers far less than 95 %."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 6)
    hits = 0
    for _ in range(200):
        values = 3.0 + rng.normal(0, 1, 40)[clusters] + rng.normal(0, 0.3, len(clusters))
        interval = cluster_bootstrap(values, clusters, rng, n=400)
        hits += interval.low <= 3.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_mean_and_order_of_an_interval():
    """Guards against weighting clusters instead of samples, or crossed limits."""
    values = np.array([1.0, 1.0, 1.0, 5.0])
    interval = cluster_bootstrap(values, np.array([7, 7, 7, 9]), np.random.default_rng(1))
    assert interval.mean == pytest.approx(2.0)
    assert interval.low == pytest.approx(1.0)
    assert interval.high == pytest.approx(5.0)


def test_ratio_is_of_sums():
    """Guards against a mean of ratios, which one small denominator ruins."""
    top, bottom = np.array([1.0, 0.5]), np.array([2.0, 0.001])
    interval = ratio_bootstrap(top, bottom, np.array([0, 0]), np.random.default_rng(2))
    assert interval.mean == pytest.approx(1.5 / 2.001)


def test_a_zero_denominator_is_not_a_number():
    """Guards against a division warning where oracle and off are equal."""
    interval = ratio_bootstrap(np.ones(2), np.zeros(2), np.array([0, 1]), np.random.default_rng(3))
    assert not np.isfinite(interval.mean)


def test_no_samples_is_refused():
    """Guards against an obscure numpy error."""
    with pytest.raises(ValueError, match="no samples"):
        cluster_bootstrap(np.zeros(0), np.zeros(0), np.random.default_rng(4))
