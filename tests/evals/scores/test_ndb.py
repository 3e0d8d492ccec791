import numpy as np
import pytest
from scipy.stats import norm

from poolformer_jax.evals.scores.ndb import assign_cells, different_cells, fit_cells, ndb


def heaps(seed, counts, d=5, spread=0.1):
    """Clips in well separated heaps, shuffled, and which heap each is of."""
    rng = np.random.default_rng(seed)
    centres = 10 * np.eye(len(counts), d)
    which = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return centres[which] + spread * rng.standard_normal((len(which), d)), which


def labels_of(counts):
    return np.repeat(np.arange(len(counts)), counts)


def different_by_loop(counts, reference, alpha):
    n, m = sum(counts), sum(reference)
    found = []
    for a, b in zip(counts, reference, strict=True):
        pooled = (a + b) / (n + m)
        variance = pooled * (1 - pooled) * (1 / n + 1 / m)
        z = (a / n - b / m) / variance**0.5 if variance else 0.0
        found.append(2 * norm.cdf(-abs(z)) < alpha)
    return found


def test_cells_are_the_heaps_of_the_reference():
    counts = [30, 5, 60, 12, 93]
    features, which = heaps(0, counts)
    cells = fit_cells(features, num_cells=5)
    labels = assign_cells(features, cells.centroids)
    assert sorted(cells.counts) == sorted(counts)
    # One label for each heap, and the centroid its mean.
    assert len(set(zip(labels, which, strict=True))) == 5
    for cell in range(5):
        expected = features[labels == cell].mean(axis=0)
        np.testing.assert_allclose(cells.centroids[cell], expected, rtol=0, atol=1e-13)


def test_k_means_has_converged():
    features = np.random.default_rng(1).standard_normal((300, 4))
    cells = fit_cells(features, num_cells=8)
    distances = ((features[:, None] - cells.centroids) ** 2).sum(axis=-1)
    nearest = distances.argmin(axis=1)
    np.testing.assert_array_equal(assign_cells(features, cells.centroids), nearest)
    np.testing.assert_array_equal(np.bincount(nearest), cells.counts)
    means = np.stack([features[nearest == cell].mean(axis=0) for cell in range(8)])
    np.testing.assert_allclose(cells.centroids, means, rtol=0, atol=1e-13)


def test_cells_depend_on_the_seed_alone():
    features = np.random.default_rng(2).standard_normal((100, 3))
    a, b, other = (fit_cells(features, num_cells=6, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.centroids, b.centroids)
    assert not np.array_equal(a.centroids, other.centroids)


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_cells_differ_by_the_z_test(alpha):
    rng = np.random.default_rng(3)
    for _ in range(50):
        counts, reference = rng.integers(0, 30, 12), rng.integers(0, 60, 12)
        found = different_cells(labels_of(counts), reference, alpha=alpha)
        assert found.tolist() == different_by_loop(counts, reference, alpha)
        assert ndb(labels_of(counts), reference, alpha=alpha) == found.mean()


def test_cells_without_variance_do_not_differ():
    assert different_cells(labels_of([10, 0]), np.array([10, 0])).tolist() == [False, False]
    assert different_cells(labels_of([10]), np.array([7])).tolist() == [False]
    # Empty among the clips only: that does differ.
    assert different_cells(labels_of([100, 0]), np.array([50, 50])).tolist() == [True, True]


def test_one_in_twenty_differs_by_chance():
    rng = np.random.default_rng(4)
    probs = np.full(50, 0.02)
    shares = [
        ndb(labels_of(rng.multinomial(2_000, probs)), rng.multinomial(3_000, probs))
        for _ in range(200)
    ]
    # 10,000 cells at 5 %, of which the counts are discrete: the error of the mean is 0.002.
    assert np.mean(shares) == pytest.approx(0.05, abs=0.008)


def test_a_missing_heap_is_a_different_cell():
    features, _ = heaps(5, [50, 50, 50, 50])
    cells = fit_cells(features, num_cells=4)
    same, _ = heaps(6, [40, 40, 40, 40])
    missing, _ = heaps(7, [160, 0, 0, 0])
    assert ndb(assign_cells(same, cells.centroids), cells.counts) == 0
    assert ndb(assign_cells(missing, cells.centroids), cells.counts) == 1


def test_too_few_distinct_clips_are_refused():
    features = np.repeat(np.arange(3.0)[:, None], 20, axis=0)
    assert sorted(fit_cells(features, num_cells=3).centroids[:, 0]) == [0, 1, 2]
    with pytest.raises(ValueError, match="60 reference clips have 3 distinct features"):
        fit_cells(features, num_cells=4)
