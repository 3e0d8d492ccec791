"""Recurrences over time that is split over devices, against one device and a NumPy loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.ops.rg_lru import rg_lru
from poolformer_jax.ops.scan import linear_scan
from poolformer_jax.ops.scan_sharded import steps_before
from poolformer_jax.typing import Planes
from tests.time_parts import split

B, C = 2, 3
# Float32 against float64, over 40 steps.
TOLERANCE = 1e-5


def scan(implementation, a, x, h0):
    return linear_scan(a, x, h0=h0, implementation=implementation)


def relative_error(found, wanted):
    return max(
        np.abs(np.asarray(f, np.float64) - w).max() / np.abs(w).max()
        for f, w in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    )


def loop(a, x, h0):
    """h_t = a_t h_{t-1} + x_t in complex128, and the state after all steps."""
    states = []
    for t in range(x.shape[1]):
        h0 = a[:, t] * h0 + x[:, t]
        states.append(h0)
    return np.stack(states, axis=1), h0


def to_planes(z):
    return Planes(jnp.float32(z.real), jnp.float32(z.imag))


@pytest.mark.parametrize(
    ("sequence", "time", "implementation"),
    [(8, 8, "sequential"), (4, 20, "associative"), (8, 40, "pallas")],
)
def test_states_are_those_of_the_whole(sequence, time, implementation, interpreted_kernels):
    rng = np.random.default_rng(time)

    def draw(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    a = rng.uniform(0.5, 1.0, (B, time, C)) * np.exp(1j * rng.uniform(0, 7, (B, time, C)))
    x, h0 = draw(B, time, C), draw(B, C)
    run = split(lambda *operands: scan(implementation, *operands), sequence)
    found = run(tuple(map(to_planes, (a, x))), (to_planes(h0),))
    wanted = tuple(map(to_planes, loop(a, x, h0)))
    assert relative_error(found, wanted) < TOLERANCE


@pytest.mark.parametrize(
    ("implementation", "complex"),
    [
        ("sequential", True),
        pytest.param("fused", True, marks=pytest.mark.slow),
        pytest.param("fused", False, marks=pytest.mark.nightly),
    ],
)
def test_gradients_of_rg_lru_are_those_of_one_device(implementation, complex, interpreted_kernels):
    rng = np.random.default_rng(0)

    def draw(*shape, scale=1.0):
        return jnp.float32(scale * rng.normal(size=shape))

    time, planes = 24, 2 if complex else 1
    steps = draw(2 * B, time, planes * C), draw(2 * B, time, 2 * C)
    weights = draw(2 * B, time, planes * C)
    h0 = Planes(draw(2 * B, C), draw(2 * B, C)) if complex else draw(2 * B, C)
    theta = jnp.float32([0.1, 1.0, 3.0]) if complex else None
    shared = jnp.float32([-0.01, -0.1, -1.0]), theta, h0

    def run(u, gates, log_decay, theta, h0):
        parameters = {"log_decay": log_decay, "theta": theta, "h0": h0}
        return rg_lru(u, gates, **parameters, implementation=implementation)

    def loss(run, steps, shared):
        y, last = run(steps, shared)
        return jnp.sum(weights * y) + sum(jnp.sum(jnp.sin(z)) for z in jax.tree.leaves(last))

    one = lambda steps, shared: run(*steps, *shared)  # noqa: E731
    wanted = jax.grad(loss, argnums=(1, 2))(one, steps, shared)
    found = jax.grad(loss, argnums=(1, 2))(split(run, 4), steps, shared)
    assert relative_error(found, jax.tree.map(np.float64, wanted)) < TOLERANCE


@pytest.mark.parametrize(("time", "k"), [(8, 2), (16, 2), (8, 3), (24, 1)])
def test_steps_before_a_part_may_come_from_several(time, k):
    first = -np.arange(k * B, dtype=np.float32).reshape(B, k) - 1
    own = np.arange(B * time, dtype=np.float32).reshape(B, time)

    def read(own, first):
        before, last = steps_before(first, own)
        return before, last

    before, last = split(read, 8)((own,), (first,))
    steps = np.concatenate([first, own], axis=1)
    part = time // 8
    wanted = [steps[:, index * part : index * part + k] for index in range(8)]
    np.testing.assert_array_equal(before, np.concatenate(wanted, axis=1))
    np.testing.assert_array_equal(last, steps[:, -k:])
