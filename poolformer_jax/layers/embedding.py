"""From codes to vectors, and from vectors to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from poolformer_jax.config_checks import Platform
from poolformer_jax.layers.config import EmbeddingKind
from poolformer_jax.layers.linear import dense_on


def sinusoidal_table(num_codes: int, width: int) -> Float[np.ndarray, "v d"]:
    """[cos(code * f_i), sin(code * f_i)] with f_i = 10000^(-i / (d/2)), cosines first.

    The raw value of the code takes the place that a position has in Vaswani et al. 2017,
    arXiv:1706.03762, section 3.5. Computed in float64, returned in float32.
    """
    half = width // 2
    angles = np.arange(num_codes)[:, None] * 10000.0 ** (-np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)


class InputEmbedding(nn.Module):
    """Embeds codes in [0, v).

    Attributes:
      num_codes: v.
      width: d.
      kind: `sinusoidal` has no parameters; `table` is learnt [v, d]; `mlp` is one dense layer of
        the code scaled to [-1, 1], with bias ~ N(0, 0.5).
      dtype: Type of the output.
    """

    num_codes: int
    width: int
    kind: EmbeddingKind = "sinusoidal"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, codes: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        match self.kind:
            case "sinusoidal":
                table = jnp.asarray(sinusoidal_table(self.num_codes, self.width), self.dtype)
                return table[codes]
            case "table":
                return nn.Embed(self.num_codes, self.width, dtype=self.dtype, name="table")(codes)
            case "mlp":
                scaled = 2.0 * codes[..., None].astype(jnp.float32) / (self.num_codes - 1) - 1.0
                return nn.Dense(
                    self.width,
                    dtype=self.dtype,
                    bias_init=nn.initializers.normal(0.5),
                    name="mlp",
                )(scaled)
            case _:
                assert_never(self.kind)


class LabelEmbedding(nn.Module):
    """Adds a learnt vector of each clip's label to all its steps.

    The vectors start at zero: a model begins as the one without labels.

    Attributes:
      num_classes: Labels are 0 ... num_classes - 1, and num_classes for "no label", which has a
        vector too. 0 is the identity.
      width: d.
      dtype: Type of the output.
    """

    num_classes: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], labels: Int[Array, " b"] | None
    ) -> Float[Array, "b t d"]:
        if not self.num_classes:
            return x
        assert labels is not None
        shape = (self.num_classes + 1, self.width)
        table = self.param("table", nn.initializers.zeros_init(), shape)
        return x + table.astype(self.dtype)[labels][:, None]


class OutputHead(nn.Module):
    """logits = LayerNorm(x) W + b, in float32 whatever the activations' type.

    Attributes:
      num_codes: v.
      platform: The platform the program is compiled for.
      epsilon: Added to the variance.
      draw: Initialiser of weights and bias; None is Flax's.
    """

    num_codes: int
    platform: Platform = "tpu"
    epsilon: float = 1e-6
    draw: Callable[..., Array] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        norm = nn.LayerNorm(epsilon=self.epsilon, use_fast_variance=False, name="norm")
        init = {"kernel_init": self.draw, "bias_init": self.draw} if self.draw else {}
        project = dense_on(self.platform, self.num_codes, name="projection", **init)
        return project(norm(x.astype(jnp.float32)))
