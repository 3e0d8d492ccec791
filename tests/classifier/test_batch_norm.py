import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.classifier.batch_norm import BatchNorm, BatchStats

SHAPE = (2, 3, 4, 5)


def problem(shape=SHAPE):
    rng = np.random.default_rng(0)
    c = shape[-1]
    x = rng.normal(3.0, 2.0, shape)
    params = {"scale": rng.uniform(0.5, 2, c), "bias": rng.normal(size=c)}
    stats = {"mean": rng.normal(size=c), "var": rng.uniform(0.5, 2, c)}
    return x, params, stats


def apply(x, params, stats, train):
    as_jax = jax.tree.map(jnp.float32, params)
    return BatchNorm().apply(
        {"params": as_jax},
        jnp.float32(x),
        BatchStats(**jax.tree.map(jnp.float32, stats)),
        train=train,
    )


def normalized(values, mean, var, scale, bias):
    return [(value - mean) / (var + 1e-5) ** 0.5 * scale + bias for value in values]


def test_training_uses_the_batch_and_moves_the_running_statistics():
    x, params, stats = problem()
    y, new = apply(x, params, stats, train=True)
    for c in range(SHAPE[-1]):
        values = x[..., c].ravel().tolist()
        n = len(values)
        mean = sum(values) / n
        squares = sum((value - mean) ** 2 for value in values)
        expected = normalized(values, mean, squares / n, params["scale"][c], params["bias"][c])
        # Float32 rounding of values of order 10.
        np.testing.assert_allclose(np.ravel(y[..., c]), expected, atol=1e-5)
        running = 0.9 * stats["var"][c] + 0.1 * squares / (n - 1)
        np.testing.assert_allclose(new.var[c], running, rtol=1e-6)
        np.testing.assert_allclose(new.mean[c], 0.9 * stats["mean"][c] + 0.1 * mean, rtol=1e-6)


def test_evaluation_uses_the_running_statistics_and_keeps_them():
    x, params, stats = problem()
    y, new = apply(x, params, stats, train=False)
    for c in range(SHAPE[-1]):
        values = x[..., c].ravel().tolist()
        arguments = (stats["mean"][c], stats["var"][c], params["scale"][c], params["bias"][c])
        expected = normalized(values, *arguments)
        np.testing.assert_allclose(np.ravel(y[..., c]), expected, atol=1e-5)
    np.testing.assert_array_equal(new.mean, np.float32(stats["mean"]))
    np.testing.assert_array_equal(new.var, np.float32(stats["var"]))


def test_variance_around_a_large_mean_does_not_cancel():
    x, params, stats = problem()
    params["bias"] = np.zeros(SHAPE[-1])
    near = apply(x, params, stats, train=True)[0]
    far = apply(x + 10_000, params, stats, train=True)[0]
    # Float32 keeps 10,000 to 1e-3; E[x^2] - E[x]^2 would be off by several units.
    np.testing.assert_allclose(near, far, atol=5e-3)


def test_single_value_has_no_batch_statistics():
    x, params, stats = problem((1, 1, 1, 5))
    with pytest.raises(ValueError, match=r"a batch of shape \(1, 1, 1, 5\) has one; train on larg"):
        apply(x, params, stats, train=True)
