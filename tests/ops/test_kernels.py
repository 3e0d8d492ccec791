"""The kernels compute what the sequential scan does, values and gradients, in interpret mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.ops import rg_lru_pallas_tpu, scan_pallas_tpu
from poolformer_jax.ops.bounded_sqrt import MAX_GRADIENT
from poolformer_jax.ops.rg_lru import rg_lru
from poolformer_jax.ops.scan import linear_scan
from poolformer_jax.typing import Planes

pytestmark = pytest.mark.usefixtures("interpreted_kernels")

# Largest difference in units of the largest value of an array: float32 in another order; outputs
# rounded to bfloat16, and gradients computed from states that are (2^-9 each, then summed).
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}
DTYPES, KINDS = ("float32", "bfloat16"), ("real", "complex")
# (b, t, c): one step, one channel and one row; a few steps; three blocks of 16 of which the last is
# padded, or 24 with padding shared; more channels than the lanes of a register.
FAST_SHAPE = (2, 37, 3)
SHAPES = [(1, 1, 1), (1, 2, 3), (3, 16, 1), (2, 61, 130), (1, 100, 256)]
# Beside such short blocks, those that TPUs run.
GRID = [(shape, 16) for shape in SHAPES] + [((2, 2500, 5), 1024), ((1, 500, 128), 1024)]
CASES = [(kind, "float32", *case) for kind in KINDS for case in GRID]
CASES += [(kind, "bfloat16", *case) for kind in KINDS for case in (GRID[0], *GRID[2:6:2], GRID[5])]
# Of the RG-LRU daily: each shape of one kind and type, and one of two others.
OFTEN = {
    ("complex", "float32"): GRID,
    ("real", "float32"): GRID[-1:],
    ("complex", "bfloat16"): GRID[:1],
}
over_shapes = pytest.mark.parametrize(
    ("kind", "dtype", "shape", "block"),
    [
        pytest.param(
            *case, marks=() if case[2:] in OFTEN.get(case[:2], ()) else pytest.mark.nightly
        )
        for case in CASES
    ],
)


def numbers(rng, shape, kind, dtype):
    def plane():
        return jnp.asarray(rng.normal(size=shape), dtype)

    return Planes(plane(), plane()) if kind == "complex" else plane()


def compare(function, reference, inputs, tolerance):
    """Values of two functions of the same inputs, and gradients for random cotangents."""

    def run(f, inputs):
        def both(inputs, cotangents):
            outputs, vjp = jax.vjp(f, *inputs)
            return outputs, vjp(cotangents)

        outputs = jax.eval_shape(f, *inputs)
        rng = np.random.default_rng(1)
        # Numbers that bfloat16 has too, so that all types get the same ones.
        cotangents = jax.tree.map(
            lambda o: jnp.asarray(rng.normal(size=o.shape), jnp.bfloat16).astype(o.dtype), outputs
        )
        return jax.jit(both)(inputs, cotangents)

    found = run(function, inputs)
    exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), inputs)
    expected = run(reference, exact)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    named = jax.tree_util.tree_leaves_with_path(found)
    for (path, ours), theirs in zip(named, jax.tree.leaves(expected), strict=True):
        assert ours.shape == theirs.shape
        scale = max(float(jnp.abs(theirs).max()), 1e-6)
        error = float(jnp.abs(ours.astype(jnp.float32) - theirs).max()) / scale
        name = jax.tree_util.keystr(path)
        # Whatever the type of the arrays, the state is float32, and so is the gradient of h0.
        assert error <= tolerance, f"{name}: error {error:.1e} of {scale:.1e}"
    for ours, given in zip(jax.tree.leaves(found[1]), jax.tree.leaves(inputs), strict=True):
        assert ours.dtype == given.dtype
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found[0][1])} == {"float32"}


def check_scan(monkeypatch, kind, dtype, shape, block):
    monkeypatch.setattr(scan_pallas_tpu, "MAX_BLOCK", block)
    (b, _, c), rng = shape, np.random.default_rng(0)
    magnitude = rng.choice([1e-6, 0.5, 0.9, 0.999, np.exp(-1e-8)], shape)
    angle = rng.uniform(-np.pi, np.pi, shape)
    a = jax.tree.map(
        lambda p: jnp.asarray(p, dtype),
        Planes(magnitude * np.cos(angle), magnitude * np.sin(angle))
        if kind == "complex"
        else magnitude,
    )
    inputs = (a, numbers(rng, shape, kind, dtype), numbers(rng, (b, c), kind, jnp.float32))
    compare(
        lambda a, x, h0: scan_pallas_tpu.scan(a, x, h0, interpret=True),
        lambda a, x, h0: linear_scan(a, x, h0=h0, implementation="sequential"),
        inputs,
        TOLERANCE[dtype],
    )


def check_rg_lru(monkeypatch, kind, dtype, shape, block):
    monkeypatch.setattr(scan_pallas_tpu, "MAX_BLOCK", block)
    (b, t, c), rng = shape, np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(b, t, 2 * c if kind == "complex" else c)), dtype)
    gates = jnp.asarray(4 * rng.normal(size=(b, t, 2 * c)), dtype)
    # From channels that remember all to those that remember nothing, whichever c is.
    log_decay = jnp.asarray(-np.resize([0.4, 2e-8, 40.0, 1e-3], c), jnp.float32)
    # A phase of 2 pi is exact to 4e-7, and one that never fades turns by the sum of all errors: on
    # long sequences float32 itself would lose 2e-5, whoever computes it.
    largest = 2 * np.pi * min(1, 100 / t)
    theta = jnp.asarray(rng.uniform(0, largest, c), jnp.float32) if kind == "complex" else None
    inputs = (u, gates, log_decay, theta, numbers(rng, (b, c), kind, jnp.float32))

    def reference(u, gates, log_decay, theta, h0):
        return rg_lru(
            u, gates,
            log_decay=log_decay, theta=theta, h0=h0, implementation="sequential",
        )  # fmt: skip

    compare(
        lambda *inputs: rg_lru_pallas_tpu.rg_lru(*inputs, interpret=True),
        reference,
        inputs,
        TOLERANCE[dtype],
    )


def test_scan_equals_sequential_scan(monkeypatch):
    check_scan(monkeypatch, "real", "float32", FAST_SHAPE, 16)


def test_rg_lru_equals_sequential_scan(monkeypatch):
    check_rg_lru(monkeypatch, "complex", "float32", FAST_SHAPE, 16)


@pytest.mark.nightly
@over_shapes
def test_scan_equals_sequential_scan_over_shapes(monkeypatch, kind, dtype, shape, block):
    check_scan(monkeypatch, kind, dtype, shape, block)


@pytest.mark.slow
@over_shapes
def test_rg_lru_equals_sequential_scan_over_shapes(monkeypatch, kind, dtype, shape, block):
    check_rg_lru(monkeypatch, kind, dtype, shape, block)


def test_the_drive_of_a_channel_that_hardly_forgets_has_all_its_digits():
    gate_a = np.float32([-60.0, -30.0, -16.0, -8.0, 0.0, 0.0, 0.0, 0.0, 3.0, 20.0])
    log_decay = -np.float32([8.0, 1.0, 0.4, 0.4, 2e-8, 1e-3, 0.031, 0.4, 8.0, 40.0])
    a, log_a, _ = rg_lru_pallas_tpu._decay(jnp.asarray(gate_a), jnp.asarray(log_decay))
    root, slope = rg_lru_pallas_tpu._root(log_a, a * a)
    r = 1.0 / (1.0 + np.exp(-np.float64(gate_a)))
    expected = np.sqrt(-np.expm1(2.0 * r * log_decay))
    np.testing.assert_allclose(root, expected, rtol=2e-6)
    np.testing.assert_allclose(slope, np.minimum(0.5 / expected, MAX_GRADIENT), rtol=2e-6)


def test_phasor_equals_float64_cosine_and_sine():
    for limit in (1, 100):
        phase = np.random.default_rng(0).uniform(-limit, limit, 100_000).astype(np.float32)
        cos, sin = jax.jit(rg_lru_pallas_tpu.phasor)(jnp.asarray(phase))
        np.testing.assert_allclose(cos, np.cos(np.float64(phase)), atol=3e-7, rtol=0)
        np.testing.assert_allclose(sin, np.sin(np.float64(phase)), atol=3e-7, rtol=0)


@pytest.mark.parametrize("time", [1, 7, 100, 500, 1000, 2000, 8000, 16_000, 16_001, 48_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_are_whole_tiles_that_pad_little(time, dtype):
    layout = scan_pallas_tpu.Layout.of((4, time, 128), [jnp.dtype(dtype)] * 12)
    padded = layout.blocks * layout.block
    assert layout.block % layout.tile == 0 and layout.block <= scan_pallas_tpu.MAX_BLOCK
    assert layout.block // 8 % 8 != 0  # Without conflicts of banks.
    assert 0 <= padded - time <= max(2 * layout.tile, time // 20)
    if time in (8000, 16_000):
        assert padded == time  # The baseline's levels are read without a copy.


def test_kernels_leave_single_steps_alone(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a kernel for one step")

    monkeypatch.setattr(scan_pallas_tpu, "run_forward", refuse)
    monkeypatch.setattr(rg_lru_pallas_tpu, "run_forward", refuse)
    x, h0 = jnp.ones((2, 1, 3)), jnp.ones((2, 3))
    linear_scan(x, x, h0=h0, implementation="fused")
    rg_lru(x, jnp.ones((2, 1, 6)), log_decay=-h0[0], theta=None, h0=h0, implementation="fused")
