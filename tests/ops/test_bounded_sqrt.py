import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.ops.bounded_sqrt import bounded_sqrt

BOUND = 1 / (4 * 200.0**2)


def test_value_is_the_square_root():
    x = np.array([0.0, 1e-12, BOUND, 0.25, 1.0], np.float32)
    np.testing.assert_array_equal(bounded_sqrt(jnp.asarray(x)), np.sqrt(x))


@pytest.mark.parametrize("x", [2 * BOUND, 0.01, 0.25, 1.0])
def test_derivative_above_the_bound_is_that_of_the_square_root(x):
    # A float32 reciprocal square root rounds to a few units in the last place.
    assert jax.grad(bounded_sqrt)(jnp.float32(x)) == pytest.approx(0.5 / np.sqrt(x), rel=5e-7)


@pytest.mark.parametrize("x", [0.0, 1e-30, 0.5 * BOUND, BOUND])
def test_below_the_bound_the_derivative_is_200_and_the_value_the_square_root(x):
    value, derivative = jax.value_and_grad(bounded_sqrt)(jnp.float32(x))
    assert value == np.sqrt(np.float32(x))  # Of x, not of the bound: 0 at 0.
    assert derivative == pytest.approx(200.0, rel=5e-7)


def test_gradient_scales_with_the_cotangent():
    x = jnp.asarray([0.0, 0.04], jnp.float32)
    _, pullback = jax.vjp(bounded_sqrt, x)
    np.testing.assert_allclose(pullback(jnp.asarray([3.0, 3.0]))[0], [600.0, 7.5], rtol=5e-7)
