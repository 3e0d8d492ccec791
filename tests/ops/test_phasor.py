import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.ops.phasor import phasor

# Two float32 units in the last place below 1, where most of the values are, and rounding.
TOLERANCE = 1.2e-7


@pytest.mark.parametrize("limit", [0.1, 1.0, 2 * np.pi, 6000.0])
def test_equals_float64_cosine_and_sine(limit):
    phase = np.random.default_rng(0).uniform(-limit, limit, 200_000).astype(np.float32)
    for function in (phasor, jax.jit(phasor)):  # Compiled code may fuse multiplications and sums.
        cos, sin = function(jnp.asarray(phase))
        np.testing.assert_allclose(cos, np.cos(phase.astype(np.float64)), atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(sin, np.sin(phase.astype(np.float64)), atol=TOLERANCE, rtol=0)


def test_quarter_turns_and_their_neighbours():
    turns = np.arange(-64, 65) * np.pi / 2
    phase = np.concatenate([turns, turns + np.pi / 4]).astype(np.float32)
    phase = np.concatenate([phase, np.nextafter(phase, 200), np.nextafter(phase, -200)])
    cos, sin = phasor(jnp.asarray(phase))
    np.testing.assert_allclose(cos, np.cos(phase.astype(np.float64)), atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(sin, np.sin(phase.astype(np.float64)), atol=TOLERANCE, rtol=0)


def test_zero_is_exact():
    cos, sin = phasor(jnp.zeros(1))
    assert cos == 1.0 and sin == 0.0


def test_small_phases_keep_their_relative_accuracy():
    phase = np.geomspace(1e-20, 0.1, 1000).astype(np.float32)
    # Four roundings of 2^-24 each; an error of the range reduction would show as an absolute one.
    np.testing.assert_allclose(
        phasor(jnp.asarray(phase)).imag, np.sin(phase.astype(np.float64)), rtol=4 * 2.0**-24
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_phases_give_nan(value):
    cos, sin = phasor(jnp.asarray([value], jnp.float32))
    assert np.isnan(cos).all() and np.isnan(sin).all()


def test_derivative_is_a_quarter_turn():
    phase = jnp.asarray(np.random.default_rng(1).uniform(-7, 7, 1000), jnp.float32)
    tangent = jnp.asarray(np.random.default_rng(2).normal(size=1000), jnp.float32)
    (cos, sin), (dcos, dsin) = jax.jvp(phasor, (phase,), (tangent,))
    # Exactly the primal outputs, times the tangent.
    np.testing.assert_array_equal(dcos, -sin * tangent)
    np.testing.assert_array_equal(dsin, cos * tangent)
    gradient = jax.grad(lambda p: jnp.sum(tangent * phasor(p).imag))(phase)
    np.testing.assert_array_equal(gradient, cos * tangent)


def test_computes_in_float32():
    phase = jnp.asarray([0.3, 1.0], jnp.bfloat16)
    cos, sin = phasor(phase)
    assert cos.dtype == sin.dtype == jnp.float32
    exact = np.cos(np.asarray(phase, np.float64))
    np.testing.assert_allclose(cos, exact, atol=TOLERANCE, rtol=0)
