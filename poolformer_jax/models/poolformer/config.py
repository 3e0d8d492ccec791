"""Configuration of the model, validated on construction."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, get_args, get_type_hints

from poolformer_jax.layers.blocks import NormKind
from poolformer_jax.layers.embedding import EmbeddingKind
from poolformer_jax.ops.scan import ScanImplementation
from poolformer_jax.typing import Platform


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolformerConfig:
    """A Poolformer; the defaults are the published baseline with 7,272,704 parameters.

    Attributes:
      num_codes: Size of the vocabulary, v.
      initial_code: The code before the first sample (128 is silence).
      width: Model width d at the outermost level.
      width_growth: Factor by which d and e grow at each pool.
      recurrent_width: e at the outermost level; e / 2 complex or e real channels.
      num_gate_blocks: Blocks of the RG-LRU's block-diagonal gates, n.
      mlp_expansion: Width inside the MLP blocks, in units of d.
      pool_factors: f of each SkipBlock, outermost first.
      layers: Layers of each level, outermost first: one more than pool factors. A SkipBlock has
        this many before the pool (U-Net) and this many after it.
      pool_groups: Groups g of the pools; None is one group a channel (g = d), the stable baseline.
      unet: Whether there are layers before the pools.
      skip: `short` adds around the pool, `long` from the SkipBlock's input to its output.
      embedding: Input embedding.
      norm: Normalisation in the residual blocks.
      gating: Whether the residual blocks have a gelu gate branch.
      temporal_convolution: Whether a causal convolution (kernel 3) precedes each RG-LRU.
      complex_recurrence: Complex (baseline) or real RG-LRU.
      decay_exponent: The constant in log|a| = -8 r softplus(Lambda).
      max_phase: theta ~ U[0, max_phase] (radians).
      dropout: Rate at the end of each residual block, in training.
      num_classes: Classes of the labels that condition every level; 0 (the published model) is no
        conditioning.
      dtype: Type of the activations; parameters and recurrence are float32.
      scan: Implementation of the recurrence; `auto` follows `platform`.
      platform: The platform the program is compiled for.
      remat: Recompute residual blocks in the backward pass: less memory, about a third more work.

    Raises:
      ValueError: On construction, if the values cannot work together.

    Source: Gallo Fernandez 2025, arXiv:2510.02206.
    """

    num_codes: int = 256
    initial_code: int = 128
    width: int = 128
    width_growth: int = 1
    recurrent_width: int = 256
    num_gate_blocks: int = 32
    mlp_expansion: int = 2
    pool_factors: tuple[int, ...] = (2, 4, 4, 5)
    layers: tuple[int, ...] = (4, 4, 4, 4, 4)
    pool_groups: int | None = None
    unet: bool = True
    skip: Literal["short", "long"] = "short"
    embedding: EmbeddingKind = "sinusoidal"
    norm: NormKind = "layer_norm"
    gating: bool = True
    temporal_convolution: bool = False
    complex_recurrence: bool = True
    decay_exponent: float = 8.0
    max_phase: float = math.pi / 10
    dropout: float = 0.0
    num_classes: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    scan: ScanImplementation | Literal["auto"] = "auto"
    platform: Platform = "tpu"
    remat: bool = False

    def __post_init__(self):
        check_types(self)
        for name in ("num_codes", "width", "width_growth", "recurrent_width", "mlp_expansion"):
            check_at_least(self, name, 1)
        check_at_least(self, "num_gate_blocks", 1)
        check_at_least(self, "num_classes", 0)
        if not 0 <= self.initial_code < self.num_codes:
            raise ValueError(
                f"initial_code {self.initial_code} is not a code: num_codes is {self.num_codes}; "
                f"choose 0 to {self.num_codes - 1} (silence is {self.num_codes // 2})"
            )
        if any(factor < 2 for factor in self.pool_factors):
            raise ValueError(
                f"pool_factors {self.pool_factors} must all be at least 2; leave a factor of 1 out"
            )
        if len(self.layers) != len(self.pool_factors) + 1:
            raise ValueError(
                f"layers {self.layers} has {len(self.layers)} entries for "
                f"{len(self.pool_factors)} pool_factors {self.pool_factors}; give "
                f"{len(self.pool_factors) + 1}, one for each SkipBlock and one for the centre"
            )
        if any(count < 0 for count in self.layers):
            raise ValueError(f"layers {self.layers} must not be negative")
        if self.embedding == "sinusoidal" and self.width % 2:
            raise ValueError(
                f"width {self.width} must be even for the sinusoidal embedding (cosines and "
                f"sines); use {self.width + 1} or embedding='table'"
            )
        divisor = self.num_gate_blocks * (2 if self.complex_recurrence else 1)
        if self.recurrent_width % divisor:
            raise ValueError(
                f"recurrent_width {self.recurrent_width} is not a multiple of {divisor} "
                f"({'2 x ' if self.complex_recurrence else ''}num_gate_blocks "
                f"{self.num_gate_blocks}); use {_nearest_multiple(self.recurrent_width, divisor)} "
                f"or another num_gate_blocks"
            )
        if self.pool_groups is not None:
            check_at_least(self, "pool_groups", 1)
            if self.width % self.pool_groups:
                raise ValueError(
                    f"width {self.width} is not a multiple of pool_groups {self.pool_groups}; use "
                    f"a divisor of {self.width}, or None for one group a channel"
                )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout {self.dropout} must be in [0, 1)")
        if self.decay_exponent <= 0 or not 0 < self.max_phase <= 2 * math.pi:
            raise ValueError(
                f"decay_exponent {self.decay_exponent} must be positive and max_phase "
                f"{self.max_phase} in (0, 2 pi]"
            )

    @property
    def total_pool_factor(self) -> int:
        """Samples per step of the centre; sequence lengths are multiples of it."""
        return math.prod(self.pool_factors)

    def check_length(self, length: int) -> None:
        """Raises ValueError unless a sequence of `length` samples can be pooled."""
        total = self.total_pool_factor
        if length <= 0 or length % total:
            padded = max(1, -(-length // total)) * total
            raise ValueError(
                f"sequence length {length} is not a positive multiple of the total pooling "
                f"factor {total}; pad to {padded} (the loss masks padding by its lengths)"
            )


EXECUTION_FIELDS = frozenset({"scan", "platform", "remat"})
"""Fields that change how the model is computed, not what it computes."""


def check_types(config: Any) -> None:
    """Raises ValueError where a field's value is not of its annotated type.

    Lists become tuples and integers become floats where those are wanted, as configuration
    files and command lines write them.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if isinstance(value, list):
            value = tuple(value)
        if hint is float and type(value) is int:
            value = float(value)
        if not _matches(value, hint):
            raise ValueError(f"{field.name} is {value!r}; it must be {_describe(hint)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field.name} is {value}; it must be finite")
        object.__setattr__(config, field.name, value)


def check_at_least(config: Any, name: str, minimum: int) -> None:
    """Raises ValueError if the field is below the minimum."""
    if getattr(config, name) < minimum:
        raise ValueError(f"{name} {getattr(config, name)} must be at least {minimum}")


def _matches(value: Any, hint: Any) -> bool:
    arguments = get_args(hint)
    if hint == tuple[int, ...]:
        return isinstance(value, tuple) and all(type(item) is int for item in value)
    if arguments and all(isinstance(argument, str) for argument in arguments):
        return isinstance(value, str) and value in arguments
    if arguments:  # A union such as `int | None`.
        return any(_matches(value, argument) for argument in arguments)
    return type(value) is hint


def _describe(hint: Any) -> str:
    arguments = get_args(hint)
    if hint == tuple[int, ...]:
        return "a tuple of integers"
    if arguments:
        return " or ".join(_describe(argument) for argument in arguments)
    return repr(hint) if isinstance(hint, str) else getattr(hint, "__name__", str(hint))


def _nearest_multiple(value: int, divisor: int) -> int:
    return max(1, round(value / divisor)) * divisor
