import math

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

from poolformer_jax.evals.scores.inception import (
    am_score,
    inception_score,
    inception_score_s4,
    mean_probs,
    modified_inception_score,
)

SCORES = {
    "standard": inception_score,
    "s4": inception_score_s4,
    "modified": modified_inception_score,
    "am": lambda log_probs: am_score(log_probs, np.full(10, 0.1)),
}

# All are means of a few hundred float64 terms, in another order than the loops' here.
ROUNDING = 1e-12


def random_log_probs(seed, n, classes=10, scale=3.0):
    logits = scale * np.random.default_rng(seed).standard_normal((n, classes))
    return log_softmax(logits, axis=1)


def alike(counts, confidence):
    """Log-probabilities of clips that are of a class with this confidence; the others are equal."""
    labels = np.repeat(np.arange(len(counts)), counts)
    probs = np.full((len(labels), len(counts)), (1 - confidence) / (len(counts) - 1))
    probs[np.arange(len(labels)), labels] = confidence
    return np.log(probs)


def log(probs):
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probs, np.float64))


def kl(p, q):
    """Sum by sum; 0 log 0 = 0."""
    return sum(a * (math.log(a / b) if b else math.inf) for a, b in zip(p, q, strict=True) if a > 0)


def test_inception_score_is_its_definition():
    log_probs = random_log_probs(0, 100)
    p = np.exp(log_probs)
    expected = math.exp(np.mean([kl(row, p.mean(axis=0)) for row in p]))
    assert inception_score(log_probs) == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize("excess", [-5e-4, 5e-4])
@pytest.mark.parametrize("score", [*SCORES.values(), lambda log_probs: mean_probs(log_probs)[0]])
def test_rounding_of_the_rows_sums_changes_no_score(score, excess):
    log_probs = random_log_probs(6, 50)
    sums = np.where(np.arange(50) % 2, 1.0 + excess, 1.0)[:, None]
    assert score(log_probs + np.log(sums)) == pytest.approx(score(log_probs), rel=ROUNDING)


def test_inception_score_is_bounded_by_one_and_the_classes():
    certain = log(np.tile(np.eye(10), (5, 1)))
    assert inception_score(certain) == pytest.approx(10, rel=ROUNDING)
    assert inception_score(log(np.full((7, 10), 0.1))) == pytest.approx(1, rel=ROUNDING)
    assert inception_score(certain[:1]) == pytest.approx(1, rel=ROUNDING)


@pytest.mark.parametrize("n", [2, 101])
def test_s4_score_is_what_the_published_code_calls(n):
    log_probs = random_log_probs(1, n)
    np.random.seed(0)
    p = np.exp(log_probs)[np.random.permutation(n)]
    first, second = p[: n // 2], p[n // 2 :]
    other_mean = np.repeat(second.mean(axis=0)[None], len(first), axis=0)
    expected = np.exp(entropy(first, other_mean, axis=0).mean())
    assert inception_score_s4(log_probs) == pytest.approx(expected, rel=ROUNDING)


def test_s4_score_is_a_mean_over_classes():
    log_probs = random_log_probs(2, 60)
    half = np.exp(log_probs)[np.random.RandomState(5).permutation(60)[:30]]
    uniform = np.full(30, 1 / 30)
    expected = math.exp(np.mean([kl(column / column.sum(), uniform) for column in half.T]))
    assert inception_score_s4(log_probs, seed=5) == pytest.approx(expected, rel=ROUNDING)


def test_both_inception_scores_agree_on_balanced_classes():
    # Equal classes and this confidence make the standard score 4.23 in the limit.
    log_probs = alike([1_000] * 10, 0.82175)
    standard, s4 = inception_score(log_probs), inception_score_s4(log_probs)
    assert standard == pytest.approx(4.23, abs=5e-4)
    # The random half has 500 ± 16 of each class: a relative variance of 1e-3.
    assert s4 == pytest.approx(standard, rel=1e-3)


def test_both_inception_scores_differ_on_unbalanced_classes():
    # 79 % of one class. In the limit the scores are 2.30 and 12.7, more than there are classes.
    log_probs = alike([7_916, *[232] * 9], 0.96458)
    assert inception_score(log_probs) == pytest.approx(2.30, abs=5e-3)
    # 116 ± 8 of each rare class in the random half: 7 % in each of 9 independent divergences.
    assert inception_score_s4(log_probs) == pytest.approx(12.7, rel=0.03)


def test_s4_score_leaves_out_a_class_that_never_occurs():
    p = np.exp(random_log_probs(3, 40, classes=4))
    padded = np.concatenate([p, np.zeros((40, 2))], axis=1)
    expected = inception_score_s4(log(p))
    assert inception_score_s4(log(padded)) == pytest.approx(expected, rel=ROUNDING)


def test_modified_score_draws_the_pairs_of_the_published_code():
    log_probs = random_log_probs(4, 37)
    p = np.exp(log_probs)
    np.random.seed(0)
    pairs = [np.random.choice(np.arange(37), size=2, replace=True) for _ in range(500)]
    expected = math.exp(np.mean([kl(p[i], p[j]) for i, j in pairs]))
    found = modified_inception_score(log_probs, num_pairs=500)
    assert found == pytest.approx(expected, rel=ROUNDING)


def test_modified_score_approaches_the_mean_over_all_pairs():
    log_probs = random_log_probs(5, 30, scale=1.0)
    p = np.exp(log_probs)
    divergences = np.array([[kl(a, b) for b in p] for a in p])
    found = math.log(modified_inception_score(log_probs, num_pairs=40_000, seed=3))
    error = divergences.std() / math.sqrt(40_000)
    assert abs(found - divergences.mean()) < 4 * error


def test_modified_score_keeps_divergences_that_probabilities_would_lose():
    # exp(-800) is 0 in float64, but the divergence is about 800 nats.
    log_probs = log_softmax(np.array([[0.0, -800.0], [-800.0, 0.0]]), axis=1)
    found = modified_inception_score(log_probs, num_pairs=1, seed=1)
    assert np.random.RandomState(1).randint(0, 2, 2).tolist() == [1, 1]
    assert found == 1  # A clip that meets itself.
    assert np.random.RandomState(0).randint(0, 2, 2).tolist() == [0, 1]
    assert math.log(modified_inception_score(log_probs / 2, num_pairs=1)) == pytest.approx(400)


def test_modified_score_of_a_probability_of_zero_is_infinite():
    assert modified_inception_score(log(np.eye(3))) == math.inf


def test_am_score_is_its_definition():
    train, log_probs = mean_probs(random_log_probs(6, 80)), random_log_probs(7, 50)
    p = np.exp(log_probs)
    expected = kl(train, p.mean(axis=0)) + np.mean([-np.sum(row * np.log(row)) for row in p])
    assert am_score(log_probs, train) == pytest.approx(expected, rel=ROUNDING)


def test_am_score_is_in_nats_and_zero_for_certain_balanced_clips():
    uniform = np.full(10, 0.1)
    assert am_score(log(np.tile(np.eye(10), (3, 1))), uniform) == pytest.approx(0, abs=1e-15)
    assert am_score(log(np.full((4, 10), 0.1)), uniform) == pytest.approx(math.log(10))
    # Certain, but only half of the classes.
    assert am_score(log(np.eye(10)[:5]), np.eye(10)[:5].mean(axis=0)) == pytest.approx(0, abs=1e-15)
    assert am_score(log(np.eye(10)[:5]), uniform) == math.inf


def test_mean_probs_is_the_mean():
    log_probs = random_log_probs(8, 33)
    np.testing.assert_allclose(mean_probs(log_probs), np.exp(log_probs).mean(axis=0), rtol=1e-13)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
class TestAllScores:
    def test_float32_rounds_no_more_than_its_input(self, score):
        log_probs = random_log_probs(9, 200)
        # Log-probabilities of up to 20 are rounded by 1e-6, and the score by as much.
        assert score(log_probs.astype(np.float32)) == pytest.approx(score(log_probs), rel=1e-5)

    def test_zeros_are_no_nan(self, score):
        sparse = log(np.tile([0.5, 0.5, *[0] * 8], (6, 1)))
        assert not math.isnan(score(sparse))

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (np.full((5, 10), 0.1), "clip 0 .* pass log_softmax"),  # Probabilities.
            (np.arange(50.0).reshape(5, 10), "clip 0 .* pass log_softmax"),  # Logits.
            (np.full((5, 10), np.nan), "clip 0 .* sum to nan"),
            (np.zeros((0, 10)), "0 clips"),
        ],
    )
    def test_what_is_no_distribution_is_refused(self, score, wrong, message):
        with pytest.raises(ValueError, match=message):
            score(wrong)
