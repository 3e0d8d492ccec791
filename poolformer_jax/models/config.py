"""What all configurations of sequence models have in common. Nothing here loads JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from poolformer_jax.config_checks import Variant, check_at_least
from poolformer_jax.layers.config import ExecutionConfig

if TYPE_CHECKING:
    from poolformer_jax.models.sequence_model import SequenceModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceModelConfig(ExecutionConfig, Variant):
    """A model of sequences of codes; one class for each kind, in `registry.MODELS`.

    Attributes:
      num_codes: Size of the vocabulary, v.
      initial_code: The code before the first sample (128 is silence).
      num_classes: Classes of the labels that condition the model; 0 is no conditioning.

    Raises:
      ValueError: On construction, if the values cannot work together.
    """

    num_codes: int = 256
    initial_code: int = 128
    num_classes: int = 0

    def __post_init__(self):
        ExecutionConfig.__post_init__(self)
        check_at_least(self, 1, "num_codes")
        check_at_least(self, 0, "num_classes")
        if not 0 <= self.initial_code < self.num_codes:
            raise ValueError(
                f"initial_code {self.initial_code} is not a code: num_codes is {self.num_codes}; "
                f"choose 0 to {self.num_codes - 1} (silence is {self.num_codes // 2})"
            )

    @classmethod
    def kinds(cls) -> Mapping[str, type[SequenceModelConfig]]:
        """All models by name."""
        from poolformer_jax.models.registry import MODELS

        return MODELS

    @property
    def chunk_multiple(self) -> int:
        """Sequences and chunks are multiples of so many samples."""
        return 1

    @property
    def flops_per_sample(self) -> float:
        """FLOPs of the forward pass for one sample: of matrix products, two a multiply-add.

        What the mathematics needs, whatever a platform makes of it: no zeros of spread blocks, no
        recomputation. Recurrences, norms and activations are left out.
        """
        raise NotImplementedError

    def build(self) -> SequenceModel:
        """Makes the model."""
        raise NotImplementedError


def check_stages(pool_factors: Sequence[int], layers: Sequence[int], stage: str) -> None:
    """Raises ValueError unless there are layers for each stage around a pool, and for the centre.

    Args:
      pool_factors: f of each pool, outermost first.
      layers: Layers of each stage.
      stage: What a stage is called.
    """
    if any(factor < 2 for factor in pool_factors):
        raise ValueError(
            f"pool_factors {pool_factors} must all be at least 2; leave a factor of 1 out"
        )
    if len(layers) != len(pool_factors) + 1:
        raise ValueError(
            f"layers {layers} has {len(layers)} entries for {len(pool_factors)} pool_factors "
            f"{pool_factors}; give {len(pool_factors) + 1}, one for each {stage} and one for the "
            "centre"
        )
    if any(count < 0 for count in layers):
        raise ValueError(f"layers {layers} must not be negative")


@runtime_checkable
class HasChunkMultiple(Protocol):
    """A model or its configuration."""

    @property
    def chunk_multiple(self) -> int:
        """Sequences and chunks are multiples of so many samples."""
        ...


def check_length(
    model: HasChunkMultiple, length: int, *, what: str = "sequence length", parts: int = 1
) -> None:
    """Raises ValueError unless so many samples can be read at once, in that many equal parts."""
    multiple = model.chunk_multiple * parts
    if length <= 0 or length % multiple:
        below, above = length // multiple * multiple, max(1, -(-length // multiple)) * multiple
        of_parts = f" times {parts}, the parts that mesh.sequence splits it into"
        raise ValueError(
            f"{what} {length} is not a positive multiple of {multiple}, the model's chunk_multiple"
            f"{of_parts if parts > 1 else ''}; use {f'{below} or ' if below > 0 else ''}{above}"
        )
