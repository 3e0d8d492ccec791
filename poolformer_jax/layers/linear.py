"""Block-diagonal linear layer."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from poolformer_jax.ops.block_diagonal import block_diagonal_product


class BlockDiagonalLinear(nn.Module):
    """y = x W + b, where W is block-diagonal; see `block_diagonal_product`.

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
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (n, i, o))
        bias = self.param("bias", nn.initializers.lecun_normal(), (n, o))
        y = block_diagonal_product(x.astype(self.dtype), kernel)
        return y + bias.reshape(1, 1, -1).astype(self.dtype)
