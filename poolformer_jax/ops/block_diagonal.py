"""Products with block-diagonal matrices."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from poolformer_jax import sharding


def block_diagonal_product(
    x: Float[Array, "b t i"], kernel: Float[Array, "n i2 o2"]
) -> Float[Array, "b t o"]:
    """Computes x W in x's type, where W has n blocks [i2, o2] on its diagonal.

    Over many steps the blocks are spread into one dense matrix before the product: a matrix unit
    multiplies by the zeros faster than it can run many small products. A single step is too short
    to pay for that, and multiplies block by block.
    """
    n, i, _ = kernel.shape
    b, t, _ = x.shape
    if t == 1:
        # With the blocks in front XLA runs this as one batched product, without transposing the
        # kernel.
        blocks = jnp.moveaxis(x.reshape(b, n, i), 1, 0)
        y = jnp.moveaxis(jnp.einsum("nbi,nio->nbo", blocks, kernel.astype(x.dtype)), 0, 1)
        return y.reshape(b, 1, -1)

    def multiply(x: Float[Array, "b t i"], kernel: Float[Array, "n i2 o2"]) -> Array:
        return x @ block_diagonal_matrix(kernel).astype(x.dtype)

    # Each device drops the zeros of the dense gradient before the devices add theirs.
    return sharding.map_batch(multiply, x, kernel)


def block_diagonal_matrix(kernel: Float[Array, "n i o"]) -> Float[Array, "i2 o2"]:
    """The dense matrix [n i, n o]."""
    n, i, o = kernel.shape
    return jnp.einsum("nio,nm->nimo", kernel, jnp.eye(n, dtype=kernel.dtype)).reshape(n * i, n * o)
