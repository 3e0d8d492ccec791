import numpy as np
import pytest
from scipy.linalg import sqrtm

from poolformer_jax.evals.scores.frechet import Gaussian, frechet_distance, frechet_distance_to


def features(seed, n, d, *, mean=0.0, decay=1.0):
    """Correlated features whose variances fall by `decay` from one to the next."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((d, d)) * np.sqrt(decay ** np.arange(d))[:, None]
    return rng.standard_normal((n, d)) @ mixing / np.sqrt(d) + mean


def with_moments(seed, n, mean, covariance):
    """Features whose sample mean and covariance are these to rounding."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x @ np.linalg.cholesky(covariance).T + mean


def by_sqrtm(a, b):
    """The definition, on raw features."""
    s_a, s_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift = a.mean(axis=0) - b.mean(axis=0)
    return shift @ shift + np.trace(s_a + s_b - 2 * sqrtm(s_a @ s_b).real)


def by_singular_values(a, b):
    """Tr (S_a S_b)^(1/2) from the clips themselves, without a covariance, for few clips."""
    shift = a.mean(axis=0) - b.mean(axis=0)
    a = (a - a.mean(axis=0)) / np.sqrt(len(a) - 1)
    b = (b - b.mean(axis=0)) / np.sqrt(len(b) - 1)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return shift @ shift + (a**2).sum() + (b**2).sum() - 2 * cross


def test_statistics_are_numpys():
    x = features(0, 50, 6, mean=3.0)
    gaussian = Gaussian.of(x.astype(np.float32))
    x = x.astype(np.float32).astype(np.float64)
    # float64 sums of 50 numbers of size 3.
    np.testing.assert_allclose(gaussian.mean, x.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(gaussian.covariance, np.cov(x, rowvar=False), rtol=1e-11)
    assert gaussian.count == 50


@pytest.mark.parametrize("sizes", [(50, 50), (1, 99), (3, 40, 1, 56)])
def test_batches_add_up_to_the_whole(sizes):
    # A mean of 1e4 standard deviations: sums of squares about 0 would lose 8 digits here.
    x = features(1, 100, 5, mean=1e4)
    parts = [Gaussian.of(part) for part in np.split(x, np.cumsum(sizes)[:-1])]
    total = parts[0]
    for part in parts[1:]:
        total += part
    whole = Gaussian.of(x)
    assert total.count == 100
    np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-14)
    # Deviations of 1 are exact to 1e4 * 2^-53 = 1e-12.
    np.testing.assert_allclose(total.scatter, whole.scatter, atol=1e-9)


@pytest.mark.parametrize("n", [200, 10], ids=["many_clips", "fewer_clips_than_features"])
def test_equal_sets_have_no_distance(n):
    x = features(2, n, 64)
    assert 0 <= frechet_distance(Gaussian.of(x), Gaussian.of(x)) < 1e-12
    # Nothing is hidden by the bound at 0: moved by 0.001 in each feature, what is left is that.
    # Traces of about 64 cancel: 64 * 2^-53 * some operations.
    moved = frechet_distance(Gaussian.of(x), Gaussian.of(x + 1e-3))
    assert moved == pytest.approx(64 * 1e-6, abs=1e-12)


def test_diagonal_gaussians_have_the_closed_form():
    mean_a, mean_b = np.array([0.0, 1.0, -2.0]), np.array([0.5, 1.0, 1.0])
    std_a, std_b = np.array([1.0, 2.0, 0.1]), np.array([3.0, 0.5, 0.1])
    a = Gaussian.of(with_moments(0, 40, mean_a, np.diag(std_a**2)))
    b = Gaussian.of(with_moments(1, 60, mean_b, np.diag(std_b**2)))
    expected = ((mean_a - mean_b) ** 2).sum() + ((std_a - std_b) ** 2).sum()
    # The moments are exact to 1e-13 or so.
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-11)


def test_scaled_covariance_has_the_closed_form():
    x = features(3, 100, 8)
    a, b = Gaussian.of(x), Gaussian.of(3 * x)
    expected = 4 * (a.mean @ a.mean) + 4 * np.trace(a.covariance)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_it_agrees_with_the_matrix_square_root():
    a, b = features(4, 300, 32), features(5, 200, 32, mean=0.1, decay=0.9)
    # Well conditioned: both are exact to about 1e-13 times the condition number's root.
    assert frechet_distance(Gaussian.of(a), Gaussian.of(b)) == pytest.approx(
        by_sqrtm(a, b), rel=1e-10
    )


@pytest.mark.slow
def test_it_agrees_with_the_matrix_square_root_at_full_width():
    a, b = features(6, 4_000, 1_024), features(7, 3_000, 1_024, mean=0.01, decay=0.998)
    # sqrtm works on a non-symmetric product, whose square root is exact to about 1e-10.
    assert frechet_distance(Gaussian.of(a), Gaussian.of(b)) == pytest.approx(
        by_sqrtm(a, b), rel=1e-8
    )


@pytest.mark.parametrize(("n_a", "n_b"), [(10, 12), (10, 200), (2, 2), (200, 3)])
def test_fewer_clips_than_features_are_no_problem(n_a, n_b):
    a, b = features(8, n_a, 64), features(9, n_b, 64, mean=0.1)
    found = frechet_distance(Gaussian.of(a), Gaussian.of(b))
    # Null directions of a covariance have variances of 1e-16 instead of 0, and their roots, 1e-8,
    # meet the variance of the other set.
    assert found == pytest.approx(by_singular_values(a, b), rel=1e-7)


def test_constant_features_are_no_problem():
    x = features(11, 50, 6)
    x[:, 2:] = 1.5
    y = np.full((50, 6), 2.0)
    expected = ((x.mean(axis=0) - 2) ** 2).sum() + x.var(axis=0, ddof=1).sum()
    assert frechet_distance(Gaussian.of(x), Gaussian.of(y)) == pytest.approx(expected, rel=1e-12)


def test_order_does_not_matter():
    a, b = features(12, 90, 12), features(13, 70, 12, mean=0.2, decay=0.8)
    shuffled = np.random.default_rng(0).permutation(a)
    expected = frechet_distance(Gaussian.of(a), Gaussian.of(b))
    # Sums of 90 in another order, and singular values of a transposed matrix.
    assert frechet_distance(Gaussian.of(shuffled), Gaussian.of(b)) == pytest.approx(
        expected, rel=1e-12
    )
    assert frechet_distance(Gaussian.of(b), Gaussian.of(a)) == pytest.approx(expected, rel=1e-12)


def test_bad_features_are_refused():
    x = features(14, 20, 4)
    x[[7, 9], 1] = np.nan
    with pytest.raises(ValueError, match=r"2 of 20 clips .* first clip 7"):
        Gaussian.of(x)
    with pytest.raises(ValueError, match="0 clips"):
        Gaussian.of(x[:0])
    with pytest.raises(ValueError, match="1 clip has no covariance"):
        frechet_distance_to(Gaussian.of(x[:1]))
    with pytest.raises(ValueError, match="3 features can't be compared with a reference of 4"):
        frechet_distance(Gaussian.of(x[:5]), Gaussian.of(x[:5, :3]))
