"""Block-diagonal linear layer."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from poolformer_jax.ops.block_diagonal import block_diagonal_matrix, block_diagonal_product


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
    def __call__(
        self, x: Float[Array, "b t i"], after: Mapping[str, Array] | None = None
    ) -> Float[Array, "b t o"]:
        """Applies the layer to x, or to the output of a dense layer for x.

        A CPU multiplies by all zeros of a dense matrix. The product of both layers' matrices has
        none, and a product of matrices without the time is cheap.

        Args:
          x: Input; t > 1 with `after`.
          after: Parameters of the dense layer before, with x as its input; None for none.
        """
        inputs = x.shape[-1] if after is None else after["kernel"].shape[-1]
        n, i, o = self.num_blocks, inputs // self.num_blocks, self.features // self.num_blocks
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (n, i, o))
        bias = self.param("bias", nn.initializers.lecun_normal(), (n, o)).reshape(-1)
        x = x.astype(self.dtype)
        if after is None:
            y = block_diagonal_product(x, kernel)
        else:
            matrix = block_diagonal_matrix(kernel)
            y = x @ (after["kernel"] @ matrix).astype(self.dtype)
            bias += after["bias"] @ matrix
        return y + bias[None, None].astype(self.dtype)
