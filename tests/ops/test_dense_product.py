"""The product of a dense layer and its gradients, in one part and in several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.ops.dense_product import MIN_ROWS, PARTS, dense_product


@pytest.mark.parametrize("shape", [(3, 5), (2, MIN_ROWS), (1, PARTS * MIN_ROWS - 1), (PARTS, 1000)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_gradients_are_those_of_the_product(shape, dtype, tolerance):
    rng = np.random.default_rng(0)
    x, kernel, dy = (
        rng.normal(size=size).astype(jnp.dtype(dtype))
        for size in ((*shape, 3), (3, 4), (*shape, 4))
    )
    y, vjp = jax.vjp(dense_product, jnp.asarray(x), jnp.asarray(kernel))
    exact = [array.astype(np.float64) for array in (x, kernel, dy)]
    expected = [
        exact[0] @ exact[1],
        exact[2] @ exact[1].T,
        np.einsum("bti,bto->io", exact[0], exact[2]),
    ]
    for ours, theirs in zip((y, *vjp(jnp.asarray(dy))), expected, strict=True):
        assert ours.dtype == dtype
        error = np.abs(np.float64(ours) - theirs).max() / np.abs(theirs).max()
        assert error <= tolerance
