"""The selective scan against a float64 loop; its kernel and its chunks against each other."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.layers.blocks import _PRODUCTS_AND_STATES
from poolformer_jax.ops import scan_pallas_tpu, selective_scan_pallas_tpu
from poolformer_jax.ops import selective_scan as portable
from poolformer_jax.ops.selective_scan import selective_scan
from poolformer_jax.typing import Planes
from tests import oracle_mamba

IMPLEMENTATIONS = ("sequential", "associative", "fused")
KINDS = ("real", "complex")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch, interpreted_kernels):
    """Chunks and blocks with borders within a few steps."""
    monkeypatch.setattr(portable, "MAX_CHUNK", 4)
    monkeypatch.setattr(scan_pallas_tpu, "MAX_BLOCK", 16)
    monkeypatch.setattr(selective_scan_pallas_tpu, "STEPS_UNROLLED", 1)


def random_inputs(b, t, e, n, kind, seed=0):
    """x, dt, [B, C], A, D, h0 in float64; numbers are complex128 if complex."""
    rng = np.random.default_rng(seed)

    def number(*shape):
        z = rng.normal(size=shape)
        return z + 1j * rng.normal(size=shape) if kind == "complex" else z

    a = -np.exp(rng.normal(size=(e, n)))
    if kind == "complex":
        a = a + 3j * rng.normal(size=a.shape)
    dt = np.exp(rng.uniform(np.log(1e-3), np.log(0.5), (b, t, e)))
    maps = number(2, b, t, n)
    return [rng.normal(size=(b, t, e)), dt, maps, a, rng.normal(size=e), number(b, e, n)]


def run_exactly(x, dt, maps, a, skip, h0):
    return oracle_mamba.selective_scan(x, dt, *maps, a, skip, h0)


def split(z):
    """Of a complex number the planes."""
    return (
        Planes(jnp.float32(z.real), jnp.float32(z.imag)) if np.iscomplexobj(z) else jnp.float32(z)
    )


def joined(z):
    return np.float64(z.real) + 1j * np.float64(z.imag) if isinstance(z, Planes) else np.float64(z)


def run(implementation, inputs):
    """Of inputs like the random ones, but for planes."""
    x, dt, maps, a, skip, h0 = inputs
    columns = [part[i] for i in (0, 1) for part in jax.tree.leaves(maps)]
    return selective_scan(
        x,
        dt,
        maps=jnp.concatenate(columns, axis=-1),
        a=a,
        skip=skip,
        h0=h0,
        implementation=implementation,
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_micro_vector(implementation):
    y, _ = selective_scan(
        jnp.float32([1, -0.5, 2])[None, :, None],
        jnp.float32([0.1, 0.2, 0.05])[None, :, None],
        maps=jnp.float32([[1, 0.5, 1, 1], [0.3, -1, 0.5, -1], [2, 1, 1, 2]])[None],
        a=jnp.float32([[-1, -2]]),
        skip=jnp.ones(1),
        h0=jnp.zeros((1, 1, 2)),
        implementation=implementation,
    )
    np.testing.assert_allclose(y.ravel(), [1.15, -0.607579465, 2.690963745], rtol=3e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
# One step, one chunk, the step after it, chunks of other lengths of which the last is padded.
@pytest.mark.parametrize("steps", [1, 4, 5, 19])
def test_equals_the_loop_from_any_state(implementation, kind, steps):
    inputs = random_inputs(2, steps, 3, 2, kind)
    y, last = jax.jit(lambda inputs: run(implementation, inputs))([*map(split, inputs)])
    assert y.dtype == jnp.float32
    expected, expected_last = run_exactly(*inputs)
    # Float32 rounding of values of order 1, and of phases of a few radians.
    np.testing.assert_allclose(y, expected, atol=5e-6)
    np.testing.assert_allclose(joined(last), expected_last, atol=5e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_differences_of_the_loop(kind):
    inputs = random_inputs(2, 9, 3, 2, kind)
    rng = np.random.default_rng(1)
    shapes = inputs[0].shape, inputs[-1].shape
    weights, last_weights = (rng.normal(size=shape) for shape in shapes)

    def loss(run, parts, inputs, xp):
        y, last = run(inputs)
        return xp.sum(weights * y) + sum(xp.sum(last_weights * part) for part in parts(last))

    def parts(z):
        return [z.real, z.imag] if np.iscomplexobj(z) else [z]

    weights, last_weights = jnp.float32(weights), jnp.float32(last_weights)
    ours = jax.jit(
        jax.grad(lambda z: loss(lambda z: run("sequential", z), jax.tree.leaves, z, jnp))
    )([*map(split, inputs)])
    weights, last_weights = np.float64(weights), np.float64(last_weights)
    for i, gradient in enumerate(ours):
        gradient = joined(gradient)
        direction = rng.normal(size=gradient.shape)
        if np.iscomplexobj(gradient):
            direction = direction + 1j * rng.normal(size=gradient.shape)

        def at(distance, i=i, direction=direction):
            moved = [*inputs[:i], inputs[i] + distance * direction, *inputs[i + 1 :]]
            return loss(lambda z: run_exactly(*z), parts, moved, np)

        expected = (at(1e-5) - at(-1e-5)) / 2e-5
        found = np.sum((gradient * np.conj(direction)).real)
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        # Float32 sums of up to a hundred terms; differences in float64 are exact to 1e-9.
        assert found == pytest.approx(expected, abs=2e-6 * scale)


@pytest.mark.parametrize(
    ("implementation", "kind", "shape"),
    [
        pytest.param("associative", "real", (2, 9, 3, 2), marks=pytest.mark.nightly),
        ("associative", "complex", (2, 9, 3, 2)),
        # Three blocks of 16 of which the last is padded; then two groups of channels.
        ("fused", "real", (2, 37, 3, 2)),
        pytest.param("fused", "complex", (1, 18, 130, 2), marks=pytest.mark.slow),
    ],
)
def test_values_and_gradients_are_those_of_the_sequential_scan(implementation, kind, shape):
    inputs = [*map(split, random_inputs(*shape, kind))]
    weights = [*map(split, run_exactly(*random_inputs(*shape, kind, seed=1)))]

    def both(implementation):
        outputs, vjp = jax.vjp(lambda inputs: run(implementation, inputs), inputs)
        return outputs, vjp(tuple(weights))

    found, expected = (jax.jit(both, static_argnums=0)(i) for i in (implementation, "sequential"))
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        # Sums of tens of terms in another order.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())


def test_bfloat16_kernel_computes_in_float32():
    inputs = [*map(split, random_inputs(2, 37, 3, 2, "real"))]
    inputs[0] = inputs[0].astype(jnp.bfloat16)
    exact = [inputs[0].astype(jnp.float32), *inputs[1:]]
    y, last = jax.jit(lambda z: run("fused", z))(inputs)
    expected, expected_last = jax.jit(lambda z: run("sequential", z))(exact)
    assert y.dtype == jnp.bfloat16 and last.dtype == jnp.float32
    np.testing.assert_allclose(last, expected_last, atol=1e-6)
    # Both the sum of states and y are rounded to 8 bits.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.float32(y), expected, atol=2**-7 * scale)


@pytest.mark.parametrize("policy", [None, _PRODUCTS_AND_STATES], ids=["", "elementwise"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_array_has_all_states(implementation, policy, monkeypatch):
    """Neither does the backward pass keep any, even if it keeps the states of recurrences."""
    monkeypatch.setattr(portable, "MAX_CHUNK", 16)
    b, t, e, n = 2, 128, 128, 16

    def loss(inputs):
        return jnp.sum(run(implementation, inputs)[0])

    loss = jax.checkpoint(loss, policy=policy)
    inputs = [*map(split, random_inputs(b, t, e, n, "real"))]
    program = str(jax.make_jaxpr(jax.grad(loss))(inputs))
    shapes = [map(int, found.split(",")) for found in re.findall(r"f32\[([\d,]+)\]", program)]
    assert max(np.prod([*shape]) for shape in shapes) <= b * t * e * n / 4


def test_memory_is_that_of_some_chunks(monkeypatch, all_optimizations):
    monkeypatch.setattr(portable, "MAX_CHUNK", 64)
    b, t, e, n = 2, 2048, 32, 16
    inputs = [*map(split, random_inputs(b, t, e, n, "real"))]
    gradient = jax.jit(jax.grad(lambda inputs: jnp.sum(run("sequential", inputs)[0])))
    memory = gradient.lower(inputs).compile().memory_analysis()
    assert memory.temp_size_in_bytes < b * t * e * n * 4 / 2


def test_more_states_than_a_kernel_has_lanes_for(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a kernel for 130 columns")

    monkeypatch.setattr(selective_scan_pallas_tpu, "selective_scan", refuse)
    inputs = [*map(split, random_inputs(1, 5, 2, 65, "real"))]
    jax.eval_shape(lambda inputs: run("fused", inputs), inputs)
