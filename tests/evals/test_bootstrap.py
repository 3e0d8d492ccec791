import math

import numpy as np
import pytest

from poolformer_jax.evals.bootstrap import bootstrap_interval, bootstrap_ratio
from poolformer_jax.evals.scores.frechet import Gaussian, frechet_distance_to


def test_interval_of_a_mean_is_the_textbooks():
    x = np.random.default_rng(0).standard_normal(400)
    interval = bootstrap_interval(lambda i: float(x[i].mean()), 400, resamples=4_000, seed=1)
    reach = 1.959964 * x.std() / math.sqrt(400)
    # The spread of 4,000 resamples has a relative standard error of 1.1 %; this is three.
    assert interval.high - x.mean() == pytest.approx(reach, rel=0.034)
    assert x.mean() - interval.low == pytest.approx(interval.high - x.mean(), rel=1e-12)
    assert (interval.confidence, interval.resamples) == (0.95, 4_000)


def test_a_few_resamples_have_their_unbiased_spread():
    """N - 1 under the squares, which with 3 resamples is a fifth of the width."""
    x, scores = np.random.default_rng(1).standard_normal(50), []

    def mean(i):
        scores.append(float(x[i].mean()))
        return scores[-1]

    interval = bootstrap_interval(mean, 50, score=0.0, resamples=3)
    assert interval.high == pytest.approx(1.959964 * np.std(scores, ddof=1), rel=1e-6)


def test_interval_depends_on_the_seed_alone():
    x = np.random.default_rng(1).standard_normal(50)
    a, b, other = (
        bootstrap_interval(lambda i: float(x[i].mean()), 50, resamples=20, seed=seed)
        for seed in (3, 3, 4)
    )
    assert a == b != other


def test_known_score_is_not_evaluated_again():
    x, calls = np.random.default_rng(1).standard_normal(50), []

    def mean(i):
        calls.append(i)
        return float(x[i].mean())

    known = bootstrap_interval(mean, 50, score=float(x.mean()), resamples=20)
    assert len(calls) == 20
    assert known == bootstrap_interval(mean, 50, resamples=20)
    assert len(calls) == 20 + 21


def test_more_confidence_is_a_wider_interval():
    x = np.random.default_rng(2).standard_normal(50)
    narrow, wide = (
        bootstrap_interval(lambda i: float(x[i].mean()), 50, confidence=confidence)
        for confidence in (0.6827, 0.9545)
    )
    # One and two standard deviations.
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(2, rel=1e-3)


def test_interval_ends_at_the_bounds():
    x = np.array([0.0, 0.0, 1.0, 1.0])
    mean = bootstrap_interval(lambda i: float(x[i].mean()), 4, bounds=(0.2, 0.6))
    assert (mean.low, mean.high) == (0.2, 0.6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resamples": 1}, "1 resamples have no spread"),
        ({"confidence": 95.0}, "confidence of 95.0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(lambda i: 0.0, 4, **arguments)


def test_infinite_scores_have_no_interval():
    with pytest.raises(ValueError, match="not finite for every resample"):
        bootstrap_interval(lambda i: math.inf if 0 in i else 0.0, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shift", [0.1, *(pytest.param(shift, marks=pytest.mark.nightly) for shift in (0.0, 0.5))]
)
def test_interval_of_the_frechet_distance_covers_its_expectation(shift):
    """At 95 %, and with as few resamples as the scores use."""
    d, n, trials = 6, 150, 150
    rng = np.random.default_rng(5)
    distance = frechet_distance_to(Gaussian(np.zeros(d), np.eye(d) * (10**6 - 1), 10**6))

    def draw():
        return rng.standard_normal((n, d)) * (1 + shift) + shift

    expected = np.mean([distance(Gaussian.of(draw())) for _ in range(2_000)])
    covered = 0
    for _ in range(trials):
        x = draw()
        interval = bootstrap_interval(lambda i, x=x: distance(Gaussian.of(x[i])), n, resamples=50)
        covered += interval.low <= expected <= interval.high
    # A true coverage of 95 % gives less than 133 of 150 once in a thousand times.
    assert covered >= 133


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
    assert (interval.confidence, interval.resamples) == (0.95, 10_000)


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
    interval = bootstrap_ratio(samples * 2.5, samples, resamples=100)
    assert interval.low == interval.high == 2.5


def test_one_clip_has_no_interval():
    assert bootstrap_ratio(np.array([3.0]), np.array([1])) is None
