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
        outputs: Any = _network(config).apply(
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
        outputs, variables = _network(config).init_with_output(key, image, None, train=False)
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
    """Residual block: 1x1 to twice the width, 3x3 in 8 groups, 1x1 back.

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
        inner, new = 2 * self.width, {}

        def unit(name: str, x: Array, *shape: int) -> Array:
            x, new[name] = ConvNorm(*shape, name=name)(x, stats and stats[name], train=train)
            return x

        y = nn.relu(unit("reduce", x, inner, 1))
        y = nn.relu(unit("grouped", y, inner, 3, self.stride, 8))
        y = unit("expand", y, self.width, 1)
        if self.has_shortcut:
            x = unit("shortcut", x, self.width, 1, self.stride)
        return nn.relu(x + y), new


class ResNeXt29(nn.Module):
    """The CIFAR ResNeXt-29, 8 x 64d, of one-channel images.

    Attributes:
      num_classes: Width of the logits.

    Source: Xie et al. 2017, arXiv:1611.05431; initialisation as in the code that the published
    weights were trained with.
    """

    num_classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], stats: Stats | None, *, train: bool
    ) -> tuple[Float[Array, "b k"], Float[Array, "b d"], Stats]:
        new: Stats = {}
        stem = ConvNorm(64, 3, name="stem")
        x, new["stem"] = stem(x, stats and stats["stem"], train=train)
        x = nn.relu(x)
        for stage, width in enumerate((256, 512, 1024), start=1):
            for block in range(3):
                name, first = f"stage_{stage}_block_{block}", block == 0
                bottleneck = Bottleneck(width, 2 if first and stage > 1 else 1, first, name=name)
                x, new[name] = bottleneck(x, stats and stats[name], train=train)
        return *_head(self.num_classes, x), new


class SmallConvNet(nn.Module):
    """Four 3x3 convolutions, each but the first of stride 2, and a mean over space.

    Attributes:
      num_classes: Width of the logits.
    """

    num_classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], stats: Stats | None, *, train: bool
    ) -> tuple[Float[Array, "b k"], Float[Array, "b d"], Stats]:
        new: Stats = {}
        for i, width in enumerate(SMALL_WIDTHS):
            name = f"conv_{i}"
            conv = ConvNorm(width, 3, stride=1 if i == 0 else 2, name=name)
            x, new[name] = conv(x, stats and stats[name], train=train)
            x = nn.relu(x)
        return *_head(self.num_classes, x), new


def _head(
    num_classes: int, x: Float[Array, "b h w c"]
) -> tuple[Float[Array, "b k"], Float[Array, "b c"]]:
    """Logits and features."""
    features = jnp.mean(x, (1, 2))
    init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    return nn.Dense(num_classes, kernel_init=init, name="head")(features), features


def _network(config: ClassifierConfig) -> nn.Module:
    match config.kind:
        case "resnext29_8x64d":
            return ResNeXt29(config.num_classes)
        case "small":
            return SmallConvNet(config.num_classes)
        case _:
            assert_never(config.kind)
