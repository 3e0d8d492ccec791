"""Configurations of layers: execution and residual blocks. Nothing here loads JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeVar

from poolformer_jax.config_checks import Platform, check_at_least, check_fraction, check_types
from poolformer_jax.layers.mixer_config import MixerConfig, RGLRUConfig

KERNEL_PLATFORMS: Mapping[str, Platform] = {"pallas": "tpu", "fused": "tpu"}
"""Values of `scan` that are kernels for one platform."""

EmbeddingKind = Literal["sinusoidal", "table", "mlp"]
RematPolicy = Literal["none", "block", "half_block", "elementwise"]
NormKind = Literal["layer_norm", "rms_norm", "scalar_norm", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """How a model is computed, for any of its layers.

    Attributes:
      dtype: Type of the activations; parameters and recurrence are float32.
      scan: Implementation of linear recurrences; `auto` follows `platform`. On TPU `fused` is a
        kernel of the gates and the recurrence, `pallas` one of the bare recurrence.
      platform: The platform the program is compiled for.
      remat: What the backward pass recomputes, for less memory and about a third more work: the
        inside of each `block`, which is a mixer block and an MLP block, of each `half_block`, which
        is one of them, all but products of matrices and states of recurrences (`elementwise`),
        little work for half of the memory, or nothing (`none`).
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    scan: Literal["associative", "sequential", "pallas", "fused", "auto"] = "auto"
    platform: Platform = "tpu"
    remat: RematPolicy = "none"

    def __post_init__(self):
        check_types(self)
        if KERNEL_PLATFORMS.get(self.scan, self.platform) != self.platform:
            raise ValueError(
                f"scan {self.scan!r} is a kernel for platform {KERNEL_PLATFORMS[self.scan]!r}, but "
                f"platform is {self.platform!r}; use scan 'auto', 'associative' or 'sequential'"
            )


Config = TypeVar("Config", bound=ExecutionConfig)


def on_platform(config: Config, platform: Platform) -> Config:
    """The same for another platform; a kernel that it does not have gives way to `auto`."""
    has_scan = KERNEL_PLATFORMS.get(config.scan, platform) == platform
    return dataclasses.replace(config, platform=platform, scan=config.scan if has_scan else "auto")


EXECUTION_FIELDS = frozenset({"scan", "platform", "remat"})
"""Fields that change how a model is computed, not what it computes (up to rounding)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig(ExecutionConfig):
    """Residual blocks, at any width; models inherit it.

    Attributes:
      mixer: What mixes time.
      mlp_expansion: Width inside the MLP blocks, in units of d.
      norm: Normalisation in front of each branch.
      gating: Whether the branch is multiplied by a gelu gate branch.
      temporal_convolution: Whether a causal convolution (kernel 3) precedes each mixer.
      dropout: Rate at the end of each residual block, in training.
    """

    mixer: MixerConfig = RGLRUConfig()
    mlp_expansion: int = 2
    norm: NormKind = "layer_norm"
    gating: bool = True
    temporal_convolution: bool = False
    dropout: float = 0.0

    def __post_init__(self):
        ExecutionConfig.__post_init__(self)
        check_at_least(self, 1, "mlp_expansion")
        check_fraction(self, "dropout")

    def flops_per_step(self, width: int) -> int:
        """Of the matrix products of one layer, two a multiply-add, for one step of width d."""
        square = 2 * width**2
        mixing = square * (1 + self.gating + 3 * self.temporal_convolution)
        mlp = square * self.mlp_expansion * (2 + self.gating)
        return self.mixer.flops_per_step(width) + mixing + mlp
