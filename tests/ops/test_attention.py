"""Attention over a window: rotary positions, blocks, the kernel's program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.ops import attention
from poolformer_jax.ops.attention import attend, rotate
from tests import oracle

CLIPS, HEADS, SIZE = 2, 2, 8


def test_rotary_positions_of_a_known_head():
    x = jnp.arange(1.0, 9.0)[None, None, None]
    expected = [-1.413352521, 1.879118067, -2.828857482, 4.058191135, 5, 6, 7, 8]
    for positions in (np.array([3]), jnp.array([3])):
        np.testing.assert_allclose(rotate(x, positions, 10_000.0).ravel(), expected, atol=1e-6)


def random_inputs(steps, window, kv_heads, seed=0):
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(CLIPS, steps, HEADS, SIZE))
    k, v = rng.normal(size=(2, CLIPS, window - 1 + steps, kv_heads, SIZE))
    return q, k, v


def banded_softmax(q, k, v, num_before, window, wavelength):
    """One query at a time, in float64."""
    y, before = np.zeros_like(q), window - 1
    for t in range(q.shape[1]):
        for head in range(HEADS):
            shared = head * k.shape[2] // HEADS
            query = oracle.rotate(q[:, t, head], before + t, wavelength)
            seen = range(max(before - num_before, t), before + t + 1)
            keys = np.stack([oracle.rotate(k[:, s, shared], s, wavelength) for s in seen], axis=1)
            scores = np.einsum("bh,bsh->bs", query, keys) / np.sqrt(SIZE)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            y[:, t, head] = np.einsum("bs,bsh->bh", weights, v[:, list(seen), shared])
    return y


@pytest.mark.parametrize(
    ("kv_heads", "wavelength"),
    [
        (1, 100.0),
        (2, None),
        pytest.param(1, None, marks=pytest.mark.nightly),
        pytest.param(2, 100.0, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("num_before", [0, 2])
# Several blocks of queries and a part of one; a window longer than the sequence; one of itself.
@pytest.mark.parametrize(("steps", "window"), [(23, 5), (7, 12), (4, 3), (3, 1)])
def test_equals_banded_softmax(steps, window, num_before, kv_heads, wavelength):
    q, k, v = random_inputs(steps, window, kv_heads)
    num_before = min(num_before, window - 1)
    expected = banded_softmax(q, k, v, num_before, window, wavelength)
    ours = attend(
        *map(jnp.float32, (q, k, v)),
        num_before=jnp.asarray(num_before),
        window=window,
        wavelength=wavelength,
        implementation="dense",
    )
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_long_windows_are_computed_in_blocks(monkeypatch):
    q, k, v = random_inputs(23, 17, 1)
    monkeypatch.setattr(attention, "MAX_BLOCK", 4)
    expected = banded_softmax(q, k, v, 5, 17, None)
    ours = attend(
        *map(jnp.float32, (q, k, v)),
        num_before=jnp.asarray(5),
        window=17,
        wavelength=None,
        implementation="dense",
    )
    np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("steps", "window", "kv_heads"),
    [(150, 40, 1), pytest.param(130, 200, 2, marks=pytest.mark.slow)],
)
def test_the_kernel_has_the_values_and_gradients_of_the_matrix(
    steps, window, kv_heads, monkeypatch
):
    monkeypatch.setattr(attention, "interpret_kernels", lambda: True)
    inputs = tuple(map(jnp.float32, random_inputs(steps, window, kv_heads)))
    weights = jnp.float32(np.random.default_rng(1).normal(size=inputs[0].shape))

    def both(implementation):
        def loss(q, k, v):
            y = attend(
                q,
                k,
                v,
                num_before=jnp.asarray(30),
                window=window,
                wavelength=100.0,
                implementation=implementation,
            )
            return jnp.sum(weights * y), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)

    for ours, theirs in zip(*map(jax.tree.leaves, (both("splash"), both("dense"))), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-5)
