"""Configuration of the Poolformer, validated on construction. Nothing here loads JAX."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar, Literal

from poolformer_jax.config_checks import check_at_least
from poolformer_jax.layers.config import BlockConfig, EmbeddingKind
from poolformer_jax.models.config import SequenceModelConfig, check_stages

if TYPE_CHECKING:
    from poolformer_jax.models.poolformer.model import Poolformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolformerConfig(SequenceModelConfig, BlockConfig):
    """A Poolformer; the defaults are the published baseline with 7,272,704 parameters.

    Fields of residual blocks, among them the mixer, are described in `BlockConfig`, those of codes
    and classes in `SequenceModelConfig`, those of execution in `ExecutionConfig`.

    Attributes:
      width: Model width d at the outermost level.
      width_growth: Factor by which d and the mixers' widths grow at each pool.
      pool_factors: f of each SkipBlock, outermost first.
      layers: Layers of each level, outermost first: one more than pool factors. A SkipBlock has
        this many before the pool (U-Net) and this many after it.
      pool_groups: Groups g of the pools; None is one group a channel (g = d), the stable baseline.
      unet: Whether there are layers before the pools.
      skip: `short` adds around the pool, `long` from the SkipBlock's input to its output.
      embedding: Input embedding.

    Raises:
      ValueError: On construction, if the values cannot work together.

    Source: Gallo Fernandez 2025, arXiv:2510.02206.
    """

    kind: ClassVar[str] = "poolformer"
    width: int = 128
    width_growth: int = 1
    pool_factors: tuple[int, ...] = (2, 4, 4, 5)
    layers: tuple[int, ...] = (4, 4, 4, 4, 4)
    pool_groups: int | None = None
    unet: bool = True
    skip: Literal["short", "long"] = "short"
    embedding: EmbeddingKind = "sinusoidal"

    def __post_init__(self):
        SequenceModelConfig.__post_init__(self)
        BlockConfig.__post_init__(self)
        check_at_least(self, 1, "width", "width_growth")
        for level in range(len(self.pool_factors) + 1):
            self.mixer.grown(self.width_growth**level).check_width(
                self.width * self.width_growth**level
            )
        check_stages(self.pool_factors, self.layers, "SkipBlock")
        if self.embedding == "sinusoidal" and self.width % 2:
            raise ValueError(
                f"width {self.width} must be even for the sinusoidal embedding (cosines and "
                f"sines); use {self.width + 1} or embedding='table'"
            )
        if self.pool_groups is not None:
            check_at_least(self, 1, "pool_groups")
            if self.width % self.pool_groups:
                raise ValueError(
                    f"width {self.width} is not a multiple of pool_groups {self.pool_groups}; use "
                    f"a divisor of {self.width}, or None for one group a channel"
                )

    @property
    def chunk_multiple(self) -> int:
        """The total pooling factor: samples per step of the centre."""
        return math.prod(self.pool_factors)

    @property
    def flops_per_sample(self) -> float:
        """Of each level at its rate; the centre has one step in `chunk_multiple` samples."""
        head = self.num_codes + (self.embedding == "mlp")
        flops, rate = 2.0 * self.width * head, 1.0
        for level, layers in enumerate(self.layers):
            growth = self.width_growth**level
            width, factors = self.width * growth, self.pool_factors[level:]
            block = dataclasses.replace(self, mixer=self.mixer.grown(growth))
            stacks = 1 + (self.unet and bool(factors))
            flops += rate * stacks * layers * block.flops_per_step(width)
            if factors:
                # Each step meets one tap of either pool.
                inner, groups = width * self.width_growth, self.pool_groups or width
                flops += rate * 4 * width * inner / groups
                rate /= factors[0]
        return flops

    def build(self) -> Poolformer:
        """Makes the model."""
        from poolformer_jax.models.poolformer.model import Poolformer

        return Poolformer(self)
