"""Batch normalisation whose running statistics are passed in and returned."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jaxtyping import Float

EPSILON = 1e-5
MOMENTUM = 0.1


class BatchStats(NamedTuple):
    """Running statistics of each channel, float32.

    Attributes:
      mean: [c].
      var: [c] with Bessel's correction.
    """

    mean: Array
    var: Array


class BatchNorm(nn.Module):
    """Normalises every channel over batch and space, then scales and shifts it.

    As PyTorch's: in training by the batch's own mean and its variance without correction, which is
    computed around the mean in float32; the running statistics move towards the batch's by a tenth,
    the variance with Bessel's correction. Otherwise by the running statistics, which are mean 0
    and variance 1 where there are none yet.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], stats: BatchStats | None, *, train: bool
    ) -> tuple[Float[Array, "b h w c"], BatchStats]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if stats is None:
            stats = BatchStats(mean=jnp.zeros(channels), var=jnp.ones(channels))
        mean, var = stats.mean, stats.var
        if train:
            count = x.size // channels
            if count < 2:
                raise ValueError(
                    "batch statistics need more than one value a channel, but a batch of shape "
                    f"{x.shape} has one; train on larger batches"
                )
            mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
            of_batch = BatchStats(mean=mean, var=var * (count / (count - 1)))
            stats = BatchStats(
                mean=stats.mean + MOMENTUM * (of_batch.mean - stats.mean),
                var=stats.var + MOMENTUM * (of_batch.var - stats.var),
            )
        mean, factor, bias = (
            lax.expand_dims(value, (0, 1, 2))
            for value in (mean, scale * lax.rsqrt(var + EPSILON), bias)
        )
        return (x - mean) * factor + bias, stats
