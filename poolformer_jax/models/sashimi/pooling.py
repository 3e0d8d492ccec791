"""The pools of SaShiMi: dense layers of a whole window, with PyTorch's initialisation.

They are the pools of `layers.pooling` with full matrices, one more step of delay on the way up, and
a bias for each of its taps.

Source: Goel et al. 2022, arXiv:2202.09729, section 4.2, and its released code.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from poolformer_jax.layers.initialization import torch_uniform
from poolformer_jax.layers.pooling import DownPool, UpPool

LENGTH_AXES = {"down_pool": (0, 1), "up_pool": (1,)}
"""Axes of a pool's kernel along which are the vectors that weight normalisation is about."""


class DenseDownPool(DownPool):
    """W [f i, o] and a bias; the attributes are those of `DownPool`.

    Attributes:
      weight_norm: Whether W has a length of its own for each of its outputs.
    """

    groups: int = 1
    weight_norm: bool = False

    def setup(self):
        fan_in = self.factor * self.in_features
        shape = (self.factor, self.in_features, self.features)
        kernel = self.param("kernel", torch_uniform(fan_in), shape)
        self.bias = self.param("bias", torch_uniform(fan_in), (self.features,))
        self.kernel = _with_length(self, kernel) if self.weight_norm else kernel


class DenseUpPool(UpPool):
    """W [i, f o] and a bias of as many; the attributes are those of `UpPool`.

    Attributes:
      weight_norm: Whether W has a length of its own for each of its outputs.
    """

    groups: int = 1
    spare: int = 1
    weight_norm: bool = False

    def setup(self):
        fan_in, shape = self.in_features, (self.factor, self.in_features, self.features)
        kernel = self.param("kernel", torch_uniform(fan_in), shape)
        self.bias = self.param("bias", torch_uniform(fan_in), (self.factor, self.features))
        self.kernel = _with_length(self, kernel) if self.weight_norm else kernel


def kernel_length(kernel: Array, axes: tuple[int, ...]) -> Array:
    """Of the vectors along some axes."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=axes, keepdims=True))


def _with_length(pool: nn.Module, kernel: Array) -> Array:
    axes = LENGTH_AXES[str(pool.name)]
    # `init_params` makes it the length of the kernel.
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(kernel.shape))
    length = pool.param("length", nn.initializers.ones_init(), shape)
    return length * kernel / kernel_length(kernel, axes)
