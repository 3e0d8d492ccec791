"""Classifiers of one-second clips: logits, and the features that sample metrics compare."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, assert_never

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from poolformer_jax.classifier.batch_norm import BatchNorm, BatchStats, init_batch_stats
from poolformer_jax.classifier.log_mel import NUM_FRAMES, NUM_MELS, MelPadding
from poolformer_jax.config_checks import check_at_least, check_types

ClassifierKind = Literal["resnext29_8x64d", "small"]

Stats = dict[str, Any]
"""Running statistics of the batch normalisations, nested like the parameters: `BatchStats` in a
dict of dicts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A classifier of log-mel spectrograms.

    Attributes:
      kind: `resnext29_8x64d` is the published one behind the sample metrics of SC09 (34,425,546
        parameters, 1024 features); `small` (316,394 parameters, 192 features) learns clean digit
        words on a CPU within minutes.
      num_classes: Width of the logits.
      mel_padding: Padding of the front end, see `log_mel`. The weights published with SaShiMi were
        trained with `reflect`.

    Raises:
      ValueError: On construction, if a value is not one of these.
    """

    kind: ClassifierKind = "resnext29_8x64d"
    num_classes: int = 10
    mel_padding: MelPadding = "reflect"

    def __post_init__(self):
        check_types(self)
        check_at_least(self, 2, "num_classes")

    @property
    def num_features(self) -> int:
        """Width of the features, the input of the last layer."""
        return 1024 if self.kind == "resnext29_8x64d" else _SMALL_WIDTHS[-1]


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
    stats = init_stats(config)
    image = jnp.zeros((1, NUM_MELS, NUM_FRAMES, 1))
    variables = jax.jit(_network(config).init, static_argnames="train")(
        key, image, stats, train=False
    )
    return variables["params"], stats


def init_stats(config: ClassifierConfig) -> Stats:
    """Statistics before training: mean 0 and variance 1."""
    match config.kind:
        case "resnext29_8x64d":
            blocks = {name: _init_bottleneck_stats(spec) for name, spec in BOTTLENECKS.items()}
            return {"stem": init_batch_stats(_STEM_WIDTH), **blocks}
        case "small":
            return {f"conv_{i}": init_batch_stats(width) for i, width in enumerate(_SMALL_WIDTHS)}
        case _:
            assert_never(config.kind)


def count_params(config: ClassifierConfig) -> int:
    """Number of parameters, without the statistics and without allocating them."""
    params, _ = jax.eval_shape(lambda key: init_classifier(config, key), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class BottleneckSpec(NamedTuple):
    """What a bottleneck is made of.

    Attributes:
      inner_width: Channels of the grouped convolution.
      width: Channels of the output.
      stride: Of the grouped convolution and the shortcut, in both directions.
      shortcut: Whether the input is projected to the output's channels.
    """

    inner_width: int
    width: int
    stride: int
    shortcut: bool


_GROUPS = 8
_STEM_WIDTH = 64
_SMALL_WIDTHS = (32, 64, 128, 192)

BOTTLENECKS = {
    f"stage_{stage}_block_{block}": BottleneckSpec(
        inner_width=2 * width, width=width, stride=stride if block == 0 else 1, shortcut=block == 0
    )
    for stage, width, stride in ((1, 256, 1), (2, 512, 2), (3, 1024, 2))
    for block in range(3)
}
"""The nine bottlenecks of the ResNeXt-29 by name, in order."""


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
        self, x: Float[Array, "b h w c"], stats: BatchStats, *, train: bool
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
    """Residual block: 1x1 to the inner width, 3x3 in groups, 1x1 back.

    Attributes:
      spec: What it is made of.

    Source: Xie et al. 2017, arXiv:1611.05431, figure 3c.
    """

    spec: BottleneckSpec

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], stats: Stats, *, train: bool
    ) -> tuple[Float[Array, "b _ _ _"], Stats]:
        inner, width, stride, has_shortcut = self.spec
        reduce = ConvNorm(inner, 1, name="reduce")
        grouped = ConvNorm(inner, 3, stride, _GROUPS, name="grouped")
        expand = ConvNorm(width, 1, name="expand")
        new: Stats = {}
        y, new["reduce"] = reduce(x, stats["reduce"], train=train)
        y, new["grouped"] = grouped(nn.relu(y), stats["grouped"], train=train)
        y, new["expand"] = expand(nn.relu(y), stats["expand"], train=train)
        if has_shortcut:
            shortcut = ConvNorm(width, 1, stride, name="shortcut")
            x, new["shortcut"] = shortcut(x, stats["shortcut"], train=train)
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
        self, x: Float[Array, "b h w c"], stats: Stats, *, train: bool
    ) -> tuple[Float[Array, "b k"], Float[Array, "b d"], Stats]:
        new: Stats = {}
        x, new["stem"] = ConvNorm(_STEM_WIDTH, 3, name="stem")(x, stats["stem"], train=train)
        x = nn.relu(x)
        for name, spec in BOTTLENECKS.items():
            x, new[name] = Bottleneck(spec, name=name)(x, stats[name], train=train)
        features = jnp.mean(x, (1, 2))
        return _head(self.num_classes)(features), features, new


class SmallConvNet(nn.Module):
    """Four 3x3 convolutions, each but the first of stride 2, and a mean over space.

    Attributes:
      num_classes: Width of the logits.
    """

    num_classes: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], stats: Stats, *, train: bool
    ) -> tuple[Float[Array, "b k"], Float[Array, "b d"], Stats]:
        new: Stats = {}
        for i, width in enumerate(_SMALL_WIDTHS):
            name = f"conv_{i}"
            conv = ConvNorm(width, 3, stride=1 if i == 0 else 2, name=name)
            x, new[name] = conv(x, stats[name], train=train)
            x = nn.relu(x)
        features = jnp.mean(x, (1, 2))
        return _head(self.num_classes)(features), features, new


def _head(num_classes: int) -> nn.Dense:
    init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    return nn.Dense(num_classes, kernel_init=init, name="head")


def _init_bottleneck_stats(spec: BottleneckSpec) -> Stats:
    widths = {"reduce": spec.inner_width, "grouped": spec.inner_width, "expand": spec.width}
    if spec.shortcut:
        widths["shortcut"] = spec.width
    return {name: init_batch_stats(width) for name, width in widths.items()}


def _network(config: ClassifierConfig) -> nn.Module:
    match config.kind:
        case "resnext29_8x64d":
            return ResNeXt29(config.num_classes)
        case "small":
            return SmallConvNet(config.num_classes)
        case _:
            assert_never(config.kind)
