import dataclasses
import json

import numpy as np
import pytest
from scipy.special import log_softmax

from poolformer_jax.evals.scores.frechet import Gaussian, frechet_distance
from poolformer_jax.evals.scores.inception import (
    am_score,
    inception_score,
    inception_score_s4,
    modified_inception_score,
)
from poolformer_jax.evals.scores.metrics import sample_metrics
from poolformer_jax.evals.scores.ndb import assign_cells, ndb
from poolformer_jax.evals.scores.reference import ReferenceStatistics

CENTRES = 2 * np.random.default_rng(99).standard_normal((10, 6))


def make_clips(seed, n, *, blur=0.0, digits=10):
    """Features in a heap for each digit, and a classifier that is less sure of blurred ones."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, digits, n)
    features = CENTRES[labels] + (0.5 + blur) * rng.standard_normal((n, 6))
    logits = rng.standard_normal((n, 10))
    logits[np.arange(n), labels] += 8 / (1 + 3 * blur)
    return features.astype(np.float32), log_softmax(logits, axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def reference():
    return ReferenceStatistics.of(*make_clips(0, 2_000), key="train")


def test_scores_are_those_of_the_functions(reference):
    features, log_probs = make_clips(1, 300, blur=0.3)
    metrics = sample_metrics(reference, features, log_probs, resamples=0)
    values = {
        name: score["value"]
        for name, score in dataclasses.asdict(metrics).items()
        if isinstance(score, dict)
    }
    assert values == {
        "fid": frechet_distance(reference.gaussian, Gaussian.of(features)),
        "inception_score": inception_score(log_probs),
        "inception_score_s4": inception_score_s4(log_probs),
        "modified_inception_score": modified_inception_score(log_probs),
        "am_score": am_score(log_probs, reference.probs),
        "ndb": ndb(assign_cells(features, reference.cells.centroids), reference.cells.counts),
    }
    assert (metrics.num_clips, metrics.num_reference) == (300, 2_000)
    assert metrics.fid.interval is None


def test_scores_are_json_and_lie_in_their_intervals(reference):
    metrics = sample_metrics(reference, *make_clips(2, 200), resamples=10)
    content = json.loads(json.dumps(dataclasses.asdict(metrics), allow_nan=False))
    for name in ("fid", "inception_score", "inception_score_s4", "am_score", "ndb"):
        score = content[name]
        assert score["interval"]["low"] <= score["value"] <= score["interval"]["high"], name
        assert score["interval"]["resamples"] == 10


LOW_IS_GOOD = ("fid", "am_score", "ndb")
HIGH_IS_GOOD = ("inception_score", "inception_score_s4", "modified_inception_score")


# NDB is of how many clips a cell holds, not of where in it they lie: it is blind to blur.
@pytest.mark.parametrize(
    ("worse", "blind"),
    [({"blur": 1.0}, {"ndb"}), ({"digits": 6}, set())],
    ids=["blurred", "six_digits"],
)
def test_scores_rank_good_clips_before_worse_ones(reference, worse, blind):
    good, bad = (
        sample_metrics(reference, *make_clips(3, 1_000, **arguments), resamples=20)
        for arguments in ({}, worse)
    )
    # By more than the intervals, so none of them is by chance.
    for name in set(LOW_IS_GOOD) - blind:
        assert getattr(good, name).interval.high < getattr(bad, name).interval.low, name
    for name in set(HIGH_IS_GOOD) - blind:
        assert getattr(good, name).interval.low > getattr(bad, name).interval.high, name


def test_few_clips_are_told_to_bias_the_frechet_distance(reference):
    features, log_probs = make_clips(4, 2_048)
    flags, values = [], []
    for n in (100, 2_047, 2_048):
        metrics = sample_metrics(reference, features[:n], log_probs[:n], resamples=0)
        flags.append(metrics.fid_is_biased)
        values.append(metrics.fid.value)
    assert flags == [True, True, False]
    assert values[0] > 5 * values[2]  # Same distribution, a twentieth of the clips.


def test_the_seed_decides_the_intervals_and_nothing_else(reference):
    clips = make_clips(5, 100)
    a, b, other = (sample_metrics(reference, *clips, seed=seed, resamples=3) for seed in (0, 0, 1))
    assert a == b
    assert a.fid.value == other.fid.value and a.fid.interval != other.fid.interval


def test_progress_counts_the_resamples_of_all_scores(reference):
    clips, calls = make_clips(7, 100), []
    arguments = {"resamples": 3, "on_progress": lambda *counts: calls.append(counts)}
    sample_metrics(reference, *clips, **arguments)
    assert calls == [(done, 6 * 3) for done in range(6 * 3 + 1)]


def test_bad_clips_are_refused(reference):
    features, log_probs = make_clips(6, 20)
    with pytest.raises(ValueError, match="5 features can't be compared with a reference of 6"):
        sample_metrics(reference, features[:, :5], log_probs)
    with pytest.raises(ValueError, match="9 classes can't be compared with a reference of 10"):
        sample_metrics(reference, features, log_softmax(log_probs[:, :9], axis=1))
    impossible = np.where(np.arange(10) == 0, 0.0, -np.inf) + np.zeros((20, 1))
    with pytest.raises(ValueError, match="log-probability isn't finite"):
        sample_metrics(reference, features, impossible)
    features[3, 2] = np.inf
    with pytest.raises(ValueError, match=r"1 of 20 clips .* first clip 3"):
        sample_metrics(reference, features, log_probs)
