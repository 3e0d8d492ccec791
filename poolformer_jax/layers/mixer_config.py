"""Configurations of mixers, and the one table of their names. Nothing here loads JAX."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from poolformer_jax.config_checks import Variant, check_at_least, check_positive, check_types

if TYPE_CHECKING:
    from poolformer_jax.layers.config import ExecutionConfig
    from poolformer_jax.layers.mixer import Mixer


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
        del factor
        return self

    def check_width(self, width: int) -> None:
        """Raises ValueError if it cannot mix inputs of width d."""

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig(MixerConfig):
    """Self-attention over a sliding window; see `Attention`.

    Attributes:
      num_heads: Heads of queries; a head has d / num_heads columns.
      num_kv_heads: Heads of keys and values; 1 is multi-query, num_heads is multi-head attention.
      window: Steps of its level that each step sees, itself among them; as many as a sequence has
        are full causal attention.
      wavelength: Longest wavelength of the rotary positions; None is no positions.
      bias: Whether queries, keys and values have biases.
    """

    kind: ClassVar[str] = "attention"
    num_heads: int = 4
    num_kv_heads: int = 1
    window: int = 256
    wavelength: float | None = 10_000.0
    bias: bool = False

    def __post_init__(self):
        check_types(self)
        check_at_least(self, 1, "num_heads", "num_kv_heads", "window")
        check_positive(self, "wavelength")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads "
                f"{self.num_kv_heads}; use a divisor of {self.num_heads}, 1 for multi-query"
            )

    def check_width(self, width: int) -> None:
        """Heads have a whole number of columns, and of quarters for rotary positions."""
        quarters = 1 if self.wavelength is None else 4
        if width % (multiple := quarters * self.num_heads):
            raise ValueError(
                f"width {width} is not a multiple of {multiple}: num_heads {self.num_heads}"
                f"{' x 4 for rotary positions' if quarters > 1 else ''}; use another number of "
                f"heads, or width {-(-width // multiple) * multiple}"
            )

    def build(self, execution: ExecutionConfig, *, name: str | None = None) -> Mixer:
        """Makes the module."""
        from poolformer_jax.layers.attention import Attention

        return Attention(self, execution, name=name)

    def flops_per_step(self, width: int) -> int:
        """The projections, and scores and sums over a full window."""
        keys_and_values = width * self.num_kv_heads // self.num_heads
        return 4 * width * (width + keys_and_values + self.window)


S4_CHUNK = 128
"""Steps that S4 computes together on a TPU; half as many elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class S4Config(MixerConfig):
    """A state space for each channel, SaShiMi's mixer; see `S4`.

    Attributes:
      state_size: Real states of each channel, s; one complex mode for each pair.
      tied: Whether the channels of a layer share A, B and P.
      dt_min: Least unit of time of a step, at the start.
      dt_max: Largest one.
      glu: Whether the map that follows has a gate.
      method: How several steps are computed: in chunks, by products of matrices (`chunked`), by the
        Fourier transform (`fft`) or one by one (`step`). `auto` is `chunked`.
    """

    kind: ClassVar[str] = "s4"
    state_size: int = 64
    tied: bool = False
    dt_min: float = 1e-3
    dt_max: float = 0.1
    glu: bool = True
    method: Literal["auto", "chunked", "fft", "step"] = "auto"

    def __post_init__(self):
        check_types(self)
        check_at_least(self, 2, "state_size")
        check_positive(self, "dt_min", "dt_max")
        if self.state_size % 2:
            raise ValueError(
                f"state_size {self.state_size} is odd, but states come in pairs; use "
                f"{self.state_size + 1}"
            )
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} must be at most dt_max {self.dt_max}")

    def build(self, execution: ExecutionConfig, *, name: str | None = None) -> Mixer:
        """Makes the module."""
        from poolformer_jax.layers.s4 import S4

        return S4(self, execution, name=name)

    def flops_per_step(self, width: int) -> int:
        """The chunks' products with kernel, inputs and outputs, on a TPU; the map that follows."""
        return width * (2 * S4_CHUNK + 4 * self.state_size) + 2 * width**2 * (1 + self.glu)


@dataclasses.dataclass(frozen=True, kw_only=True)
class S4DConfig(S4Config):
    """S4 with a diagonal matrix; see `S4`.

    Attributes:
      init: Modes at the start: those of HiPPO-LegS (`legs`), of a Fourier series (`lin`), or spaced
        inversely (`inv`).
    """

    kind: ClassVar[str] = "s4d"
    init: Literal["legs", "lin", "inv"] = "legs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MambaConfig(MixerConfig):
    """A diagonal recurrence whose parameters depend on the input; see `Mamba`.

    Attributes:
      expand: Channels inside, in units of d.
      state_size: States of each channel, n.
      convolution_width: Steps that the convolution before the recurrence sees.
      complex: Complex or real states.
      dt_rank: Rank of the map to the time steps of all channels; None is d / 16, rounded up.
      dt_min: Least time step at the start of training; their logarithms are uniform.
      dt_max: Largest one.
      output_scale: Of the output projection's initial values; in language models 1 / sqrt(number of
        blocks).
    """

    kind: ClassVar[str] = "mamba"
    expand: int = 2
    state_size: int = 16
    convolution_width: int = 4
    complex: bool = False
    dt_rank: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 0.1
    output_scale: float = 1.0

    def __post_init__(self):
        check_types(self)
        check_at_least(self, 1, "expand", "state_size")
        check_at_least(self, 2, "convolution_width")
        if self.dt_rank is not None:
            check_at_least(self, 1, "dt_rank")
        check_positive(self, "dt_min", "dt_max", "output_scale")
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} must be at most dt_max {self.dt_max}")

    def build(self, execution: ExecutionConfig, *, name: str | None = None) -> Mixer:
        """Makes the module."""
        from poolformer_jax.layers.mamba import Mamba

        return Mamba(self, execution, name=name)

    def rank_of(self, width: int) -> int:
        """Rank of the time steps at width d."""
        return -(-width // 16) if self.dt_rank is None else self.dt_rank

    @property
    def num_maps(self) -> int:
        """Columns of B_t and C_t together."""
        return 2 * self.state_size * (1 + self.complex)

    def flops_per_step(self, width: int) -> int:
        """The projections to channels and gates, to time steps and maps, and back."""
        rank = self.rank_of(width)
        return 2 * self.expand * width * (3 * width + 2 * rank + self.num_maps)


MIXERS: Mapping[str, type[MixerConfig]] = {
    config.kind: config
    for config in (RGLRUConfig, LRUConfig, AttentionConfig, S4Config, S4DConfig, MambaConfig)
}
