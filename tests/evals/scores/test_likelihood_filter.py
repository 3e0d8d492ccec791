import numpy as np
import pytest

from poolformer_jax.evals.scores.likelihood_filter import likelihood_quantile_filter


def test_published_numbers_of_clips():
    kept = likelihood_quantile_filter(np.random.default_rng(0).standard_normal(10_240))
    assert len(kept) == 2_816
    assert len(set(kept)) == 2_816


def test_it_is_what_the_published_script_does():
    # The script's clips are sorted by likelihood beforehand, and its halves are sets of positions.
    log_likelihoods = np.random.default_rng(1).standard_normal(200)
    ascending = sorted(range(200), key=lambda clip: log_likelihoods[clip])
    np.random.seed(0)
    tuning = set(np.random.choice(200, size=100, replace=False))
    half = [ascending[position] for position in range(200) if position not in tuning]
    assert likelihood_quantile_filter(log_likelihoods).tolist() == half[40:95]


def test_kept_clips_are_those_between_the_quantiles():
    log_likelihoods = np.random.default_rng(2).standard_normal(4_000)
    kept = log_likelihoods[likelihood_quantile_filter(log_likelihoods, low=0.4, high=0.95)]
    assert (np.diff(kept) > 0).all()
    # Quantiles of a random half: the ranks among all have a standard deviation of 0.8 %.
    low, high = np.quantile(log_likelihoods, [0.37, 0.98])
    assert low < kept.min() and kept.max() < high
    assert (kept < np.quantile(log_likelihoods, 0.43)).any()
    assert (kept > np.quantile(log_likelihoods, 0.92)).any()


def test_positions_of_sorted_clips_do_as_well():
    log_likelihoods = np.sort(np.random.default_rng(3).standard_normal(100))
    np.testing.assert_array_equal(
        likelihood_quantile_filter(log_likelihoods, seed=4),
        likelihood_quantile_filter(np.arange(100.0), seed=4),
    )


@pytest.mark.parametrize(
    ("log_likelihoods", "quantiles", "message"),
    [
        ([0.0, np.nan, 1.0], {}, "clip 1 has log-likelihood nan"),
        ([0.0, 1.0], {}, "0 of 2 clips lie between"),
        (np.arange(4.0), {}, "1 of 4 clips lie between"),
        ([0.0] * 100, {"low": 0.9, "high": 0.5}, "quantiles 0.9 to 0.5"),
        ([0.0] * 100, {"high": 1.5}, "quantiles 0.4 to 1.5"),
    ],
)
def test_bad_arguments_are_refused(log_likelihoods, quantiles, message):
    with pytest.raises(ValueError, match=message):
        likelihood_quantile_filter(np.array(log_likelihoods), **quantiles)
