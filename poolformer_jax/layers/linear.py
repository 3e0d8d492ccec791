"""Dense and block-diagonal linear layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from poolformer_jax.config_checks import Platform
from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.initialization import LECUN_NORMAL
from poolformer_jax.ops.block_diagonal import block_diagonal_matrix, block_diagonal_product
from poolformer_jax.ops.dense_product import dense_product


def dense(features: int, execution: ExecutionConfig, **options: Any) -> nn.Dense:
    """A dense layer of the activations' type, on the platform of the program."""
    return dense_on(execution.platform, features, dtype=execution.dtype, **options)


def dense_on(platform: Platform, features: int, **options: Any) -> nn.Dense:
    """A dense layer whose product is the one that suits a platform."""
    return nn.Dense(features, dot_general=dense_product if platform == "cpu" else None, **options)


class BlockDiagonalLinear(nn.Module):
    """y = x W + b, where W is block-diagonal; see `block_diagonal_product`.

    Initialisation follows the published code, which draws the kernel [n, i, o] and the bias
    [n, o] as if n were a receptive field: truncated normal with variance 1 / (n i) for the kernel
    and 1 / n for the BIAS, which is not zero. It is part of the published recipe.

    Attributes:
      features: Width of the output, a multiple of `num_blocks`.
      num_blocks: Number of blocks on the diagonal; divides the width of the input too.
    """

    features: int
    num_blocks: int

    @nn.compact
    def weights(self, inputs: int) -> tuple[Float[Array, "n i2 o2"], Float[Array, " o"]]:
        """Kernel and bias for so many columns of x."""
        n, o = self.num_blocks, self.features // self.num_blocks
        kernel = self.param("kernel", LECUN_NORMAL, (n, inputs // n, o))
        bias = self.param("bias", LECUN_NORMAL, (n, o))
        return kernel, bias.reshape(-1)

    def __call__(self, x: Float[Array, "b t i"]) -> Float[Array, "b t o"]:
        return apply_block_diagonal(x, [self.weights(x.shape[-1])])


def apply_block_diagonal(
    x: Float[Array, "b t i"], weights: Sequence[tuple[Array, Array]]
) -> Float[Array, "b t o"]:
    """The outputs of several such layers side by side, in x's type, from one product."""
    kernels, biases = zip(*weights, strict=True)
    bias = jnp.concatenate(biases)[None, None].astype(x.dtype)
    return block_diagonal_product(x, kernels) + bias


def apply_after_dense(
    x: Float[Array, "b t d"],
    parameters: Mapping[str, Array],
    weights: Sequence[tuple[Array, Array]],
) -> Float[Array, "b t o"]:
    """The same for the output of a dense layer, from the layer's input x and its parameters.

    A CPU multiplies by all zeros of a spread matrix. The product of both layers' matrices has none,
    and to compute it is cheap beside a product over many steps.
    """
    kernels, biases = zip(*weights, strict=True)
    matrix = block_diagonal_matrix(kernels)
    bias = parameters["bias"] @ matrix + jnp.concatenate(biases)
    y = dense_product(x, (parameters["kernel"] @ matrix).astype(x.dtype))
    return y + bias[None, None].astype(x.dtype)
