"""Classifiers of one-second clips: logits, and the features that sample metrics compare."""

from __future__ import annotations

from typing import Any, assert_never

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from poolformer_jax.classifier.batch_norm import BatchNorm, BatchStats
from poolformer_jax.classifier.config import (
    NUM_FRAMES,
    NUM_MELS,
    SMALL_WIDTHS,
    ClassifierConfig,
    ClassifierKind,
)

Stats = dict[str, Any]
"""Running statistics of the batch normalisations, nested like the parameters: `BatchStats` in a
dict of dicts."""


def classify(
    config: ClassifierConfig,
    params: Any,
    stats: Stats,
    mels: Float[Array, "b 32 32"],
    *,
    train: bool = False,
) -> tuple[Float[Array, "b k"], Float[Array, "b d"], Stats]:
    """Computes logits and features of a batch.

    Args:
      config: Architecture.
      params: Nested dict of float32 arrays.
      stats: Running statistics, which normalise unless `train`.
      mels: [b, mels, frames], log-mel spectrograms in dB as `log_mel` returns them.
      train: Whether to normalise by the batch's own statistics and to move the running ones; then
        the clips of a batch see each other.

    Returns:
      (logits, features in front of the last layer, running statistics, which are the ones given
      unless `train`), in float32 also on devices whose default product is less precise: a
      Fréchet distance is a small difference of large traces.
    """
    with jax.default_matmul_precision("float32"):
        outputs: Any = Network(config).apply(
            {"params": params}, mels[..., None], stats, train=train
        )
    return outputs


def init_classifier(config: ClassifierConfig, key: Array) -> tuple[Any, Stats]:
    """Draws the parameters; statistics are those of a standard normal.

    Returns:
      (params, stats): a nested dict of float32 arrays, and what `classify` needs beside it.
    """

    @jax.jit
    def init(key: Array) -> tuple[Any, Stats]:
        image = jnp.zeros((1, NUM_MELS, NUM_FRAMES, 1))
        outputs, variables = Network(config).init_with_output(key, image, None, train=False)
        return variables["params"], outputs[2]

    return init(key)


def count_params(config: ClassifierConfig) -> int:
    """Number of parameters, without the statistics and without allocating them."""
    params, _ = jax.eval_shape(lambda key: init_classifier(config, key), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class ConvNorm(nn.Module):
    """A convolution without bias, padded by half its kernel, and a batch normalisation.

    Attributes:
      width: Channels of the output.
      kernel: Side of the kernel.
      stride: In both directions.
      groups: Groups of channels that are convolved apart.
    """

    width: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], stats: BatchStats | None, *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], BatchStats]:
        x = nn.Conv(
            self.width,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.kernel // 2,
            feature_group_count=self.groups,
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            name="conv",
        )(x)
        return BatchNorm(name="norm")(x, stats, train=train)


class Bottleneck(nn.Module):
    """Residual block but for its last ReLU: 1x1 to twice the width, 3x3 in 8 groups, 1x1 back.

    Attributes:
      width: Channels of the output.
      stride: Of the grouped convolution and the shortcut, in both directions.
      has_shortcut: Whether the input is projected to the output's channels.

    Source: Xie et al. 2017, arXiv:1611.05431, figure 3c.
    """

    width: int
    stride: int
    has_shortcut: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], stats: Stats | None, *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], Stats]:
        inner = 2 * self.width
        new: Stats = {}

        def unit(name: str, x: Array, *shape: int) -> Array:
            of_unit = None if stats is None else stats[name]
            x, new[name] = ConvNorm(*shape, name=name)(x, of_unit, train=train)
            return x

        y = nn.relu(unit("reduce", x, inner, 1))
        y = nn.relu(unit("grouped", y, inner, 3, self.stride, 8))
        y = unit("expand", y, self.width, 1)
        if self.has_shortcut:
            x = unit("shortcut", x, self.width, 1, self.stride)
        return x + y, new


class Network(nn.Module):
    """Convolutions or bottlenecks with a ReLU after each, a mean over space, and a linear layer.

    Attributes:
      config: Which.

    Source: of the ResNeXt, the CIFAR ResNeXt-29 8 x 64d of Xie et al. 2017, arXiv:1611.05431;
    initialisation as in the code that the published weights were trained with.
    """

    config: ClassifierConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], stats: Stats | None, *, train: bool
    ) -> tuple[Float[Array, "b k"], Float[Array, "b d"], Stats]:
        new: Stats = {}
        for part in _parts(self.config.kind):
            x, new[part.name] = part(x, stats and stats[part.name], train=train)
            x = nn.relu(x)
        features = jnp.mean(x, (1, 2))
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        head = nn.Dense(self.config.num_classes, kernel_init=init, name="head")
        return head(features), features, new


def _parts(kind: ClassifierKind) -> list[Any]:
    match kind:
        case "resnext29_8x64d":
            return [ConvNorm(64, 3, name="stem")] + [
                Bottleneck(width, stride if i == 0 else 1, i == 0, name=f"stage_{stage}_block_{i}")
                for stage, width, stride in ((1, 256, 1), (2, 512, 2), (3, 1024, 2))
                for i in range(3)
            ]
        case "small":
            return [
                ConvNorm(width, 3, stride=1 if i == 0 else 2, name=f"conv_{i}")
                for i, width in enumerate(SMALL_WIDTHS)
            ]
        case _:
            assert_never(kind)
