"""Products with block-diagonal matrices."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from poolformer_jax import sharding


def block_diagonal_product(
    x: Float[Array, "b t i"], kernels: Sequence[Float[Array, "n i2 o2"]]
) -> Float[Array, "b t o"]:
    """Computes [x W_1, x W_2, ...] in x's type; each W has n blocks [i2, o2] on its diagonal.

    Over many steps the blocks are spread into one dense matrix before the product: a matrix unit
    multiplies by the zeros faster than it can run many small products, and reads x once for all W.
    A single step is too short to pay for that, and multiplies block by block.
    """
    b, t, _ = x.shape
    if t == 1:

        def multiply_blocks(kernel: Float[Array, "n i2 o2"]) -> Array:
            # With the blocks in front XLA runs this as one batched product, without transposing
            # the kernel.
            blocks = jnp.moveaxis(x.reshape(b, kernel.shape[0], -1), 1, 0)
            y = jnp.einsum("nbi,nio->nbo", blocks, kernel.astype(x.dtype))
            return jnp.moveaxis(y, 0, 1).reshape(b, 1, -1)

        return jnp.concatenate([multiply_blocks(kernel) for kernel in kernels], axis=-1)

    def multiply(x: Float[Array, "b t i"], kernels: Sequence[Array]) -> Array:
        return x @ block_diagonal_matrix(kernels).astype(x.dtype)

    # Each device drops the zeros of the dense gradient before the devices add theirs.
    return sharding.map_batch(multiply, x, kernels)


def block_diagonal_matrix(kernels: Sequence[Float[Array, "n i o"]]) -> Float[Array, "i2 o2"]:
    """The dense matrices [W_1, W_2, ...] side by side."""

    def spread(kernel: Float[Array, "n i o"]) -> Array:
        n, i, o = kernel.shape
        return jnp.einsum("nio,nm->nimo", kernel, jnp.eye(n)).reshape(n * i, n * o)

    return jnp.concatenate([spread(kernel) for kernel in kernels], axis=1)
