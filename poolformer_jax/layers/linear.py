"""Block-diagonal linear layer."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from poolformer_jax.layers.initialization import LECUN_NORMAL


class BlockDiagonalLinear(nn.Module):
    """y = x W + b, where W is block-diagonal.

    Over many steps the blocks are spread into one dense matrix before the product: a matrix unit
    multiplies by the zeros faster than it can run many small products. A single step is too short
    to pay for that, and multiplies block by block.

    Initialisation follows the published code, which draws the kernel [n, i, o] and the bias
    [n, o] as if n were a receptive field: truncated normal with variance 1 / (n i) for the kernel
    and 1 / n for the BIAS, which is not zero. It is part of the published recipe.

    Attributes:
      features: Width of the output, a multiple of `num_blocks`.
      num_blocks: Number of blocks on the diagonal; divides the width of the input too.
      dtype: Type of the product.
    """

    features: int
    num_blocks: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"]) -> Float[Array, "b t o"]:
        n, i, o = self.num_blocks, x.shape[-1] // self.num_blocks, self.features // self.num_blocks
        kernel = self.param("kernel", LECUN_NORMAL, (n, i, o))
        bias = self.param("bias", LECUN_NORMAL, (n, o))
        x, kernel, bias = (
            array.astype(self.dtype) for array in (x, kernel, bias.reshape(1, 1, -1))
        )
        b, t, _ = x.shape
        if t == 1:
            # With the blocks in front XLA runs this as one batched product, without transposing
            # the kernel.
            blocks = jnp.moveaxis(x.reshape(b, n, i), 1, 0)
            y = jnp.moveaxis(jnp.einsum("nbi,nio->nbo", blocks, kernel), 0, 1)
            return y.reshape(b, 1, n * o) + bias
        dense = jnp.einsum("nio,nm->nimo", kernel, jnp.eye(n)).reshape(n * i, n * o)
        return x @ dense.astype(self.dtype) + bias
