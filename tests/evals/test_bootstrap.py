import math

import numpy as np
import pytest

from poolformer_jax.evals.bootstrap import bootstrap_ratio


def make_clips(num_clips=400):
    rng = np.random.default_rng(0)
    samples = rng.integers(4_000, 16_000, num_clips)
    return samples * rng.normal(3.0, 0.5, num_clips), samples


def test_interval_is_that_of_the_normal_approximation():
    bits, samples = make_clips()
    interval = bootstrap_ratio(bits, samples)
    mean = bits.sum() / samples.sum()
    # Cochran 1977, Sampling Techniques, section 6.4: the variance of a ratio of sums.
    error = math.sqrt(np.sum((bits - mean * samples) ** 2)) / samples.sum()
    # Quantiles at 2.5 % of 10,000 draws scatter by sqrt(p (1 - p) / 10,000) / density(1.96), 0.027
    # standard errors; three times that, and as much for the skewness, which falls with sqrt(n).
    assert interval.low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)
    assert (interval.level, interval.num_resamples, interval.seed) == (0.95, 10_000, 0)


def test_interval_follows_from_the_seed(monkeypatch):
    bits, samples = make_clips(50)
    first = bootstrap_ratio(bits, samples)
    assert bootstrap_ratio(bits, samples) == first
    assert bootstrap_ratio(bits, samples, seed=1).low != first.low
    # However many sets are drawn at once.
    monkeypatch.setattr("poolformer_jax.evals.bootstrap._DRAWS_AT_ONCE", 3 * 50)
    assert bootstrap_ratio(bits, samples) == first


def test_equal_clips_leave_no_doubt():
    samples = np.full(20, 100)
    interval = bootstrap_ratio(samples * 2.5, samples, num_resamples=100)
    assert interval.low == interval.high == 2.5


def test_one_clip_has_no_interval():
    assert bootstrap_ratio(np.array([3.0]), np.array([1])) is None
