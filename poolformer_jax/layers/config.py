"""Configurations of layers: execution, mixers by name, residual blocks. Nothing here loads JAX."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from poolformer_jax.config_checks import (
    Platform,
    Variant,
    check_at_least,
    check_fraction,
    check_positive,
    check_types,
)

if TYPE_CHECKING:
    from poolformer_jax.layers.mixer import Mixer

KERNEL_PLATFORMS: Mapping[str, Platform] = {"pallas": "tpu", "fused": "tpu"}
"""Values of `scan` that are kernels for one platform."""

EmbeddingKind = Literal["sinusoidal", "table", "mlp"]
RematPolicy = Literal["none", "block", "half_block", "elementwise"]
NormKind = Literal["layer_norm", "rms_norm", "none"]


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
class MixerConfig(Variant):
    """What a residual block mixes time with; one class for each kind, in `MIXERS`."""

    @classmethod
    def kinds(cls) -> Mapping[str, type[MixerConfig]]:
        """All mixers by name."""
        return MIXERS

    def build(self, execution: ExecutionConfig, *, name: str | None = None) -> Mixer:
        """Makes the Linen module."""
        raise NotImplementedError

    def grown(self, factor: int) -> MixerConfig:
        """The mixer of a level whose width is `factor` times that of the outermost one."""
        raise NotImplementedError

    def flops_per_step(self, width: int) -> int:
        """Of its matrix products, two a multiply-add, for one step of width d."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LRUConfig(MixerConfig):
    """A diagonal linear recurrence without gates; see `LRU`.

    Attributes:
      recurrent_width: e at the outermost level; e / 2 complex or e real channels.
      complex: Complex or real recurrence.
      max_phase: theta ~ U[0, max_phase] (radians).
    """

    kind: ClassVar[str] = "lru"
    recurrent_width: int = 256
    complex: bool = True
    max_phase: float = math.pi / 10

    def __post_init__(self):
        check_types(self)
        check_at_least(self, 1, "recurrent_width")
        self._check_divisible(2 if self.complex else 1, "complex channels")
        if not 0 < self.max_phase <= 2 * math.pi:
            raise ValueError(f"max_phase {self.max_phase} must be in (0, 2 pi]")

    def build(self, execution: ExecutionConfig, *, name: str | None = None) -> Mixer:
        """Makes the module."""
        from poolformer_jax.layers.lru import LRU

        return LRU(self, execution, name=name)

    def grown(self, factor: int) -> MixerConfig:
        """As many times the channels."""
        return dataclasses.replace(self, recurrent_width=factor * self.recurrent_width)

    def flops_per_step(self, width: int) -> int:
        """The projections to e and back."""
        return 4 * width * self.recurrent_width

    @property
    def num_channels(self) -> int:
        """Channels of the recurrence: two real columns make one complex channel."""
        return self.recurrent_width // 2 if self.complex else self.recurrent_width

    def _check_divisible(self, divisor: int, why: str) -> None:
        if self.recurrent_width % divisor:
            nearest = max(1, round(self.recurrent_width / divisor)) * divisor
            raise ValueError(
                f"recurrent_width {self.recurrent_width} is not a multiple of {divisor} ({why}); "
                f"use {nearest}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RGLRUConfig(LRUConfig):
    """A real-gated linear recurrence, the published mixer; see `RGLRU`.

    Attributes:
      num_gate_blocks: Blocks of the gates' block-diagonal matrices, n.
      decay_exponent: The constant in log|a| = -8 r softplus(Lambda).
    """

    kind: ClassVar[str] = "rg_lru"
    num_gate_blocks: int = 32
    decay_exponent: float = 8.0

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, 1, "num_gate_blocks")
        check_positive(self, "decay_exponent")
        self._check_divisible(
            self.num_gate_blocks * (2 if self.complex else 1),
            f"{'2 x ' if self.complex else ''}num_gate_blocks {self.num_gate_blocks}",
        )

    def build(self, execution: ExecutionConfig, *, name: str | None = None) -> Mixer:
        """Makes the module."""
        from poolformer_jax.layers.rg_lru import RGLRU

        return RGLRU(self, execution, name=name)

    def flops_per_step(self, width: int) -> int:
        """The projections, and the blocks of both gates."""
        gates = 4 * self.recurrent_width * self.num_channels // self.num_gate_blocks
        return super().flops_per_step(width) + gates


MIXERS: Mapping[str, type[MixerConfig]] = {
    config.kind: config for config in (RGLRUConfig, LRUConfig)
}


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
