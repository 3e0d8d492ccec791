"""Likelihood of a whole split in bits per sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from poolformer_jax.models.config import PoolformerConfig
from poolformer_jax.models.poolformer import Poolformer, init_state
from poolformer_jax.ops.likelihood import clip_bits

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Negative log-likelihood of a set of clips.

    Attributes:
      bits_per_sample: Mean over all samples that count, base 2.
      num_clips: Clips with at least one sample.
      num_samples: Samples that count.
    """

    bits_per_sample: float
    num_clips: int
    num_samples: int


def make_likelihood_evaluator(
    config: PoolformerConfig, *, put_batch: Callable[[Mapping[str, np.ndarray]], Batch]
) -> Callable[..., Likelihood | None]:
    """Builds a function that evaluates parameters on batches; it is compiled once.

    Args:
      config: Architecture.
      put_batch: Places a process's rows on the devices.

    Returns:
      evaluate(params, batches, should_stop=None) -> Likelihood, or None if `should_stop()` became
      true between two batches. Batches have `tokens` [b, t] and `lengths` [b], for a model with
      classes `labels` [b] too; rows of length 0 are filling. Clips are summed in float64, so the
      result does not depend on the batch size beyond the rounding of single clips.
    """
    model = Poolformer(config)

    @jax.jit
    def bits_of_batch(params: Any, batch: Batch) -> jax.Array:
        labels = batch["labels"] if config.num_classes else None
        state = init_state(config, batch["tokens"].shape[0], labels)
        logits, _ = model.apply({"params": params}, batch["tokens"], state)
        return clip_bits(logits, batch["tokens"], lengths=batch["lengths"])

    def evaluate(
        params: Any,
        batches: Iterable[Mapping[str, np.ndarray]],
        should_stop: Callable[[], bool] | None = None,
    ) -> Likelihood | None:
        total_bits, num_clips, num_samples = 0.0, 0, 0
        for local_batch in batches:
            if should_stop is not None and should_stop():
                return None
            batch = put_batch(local_batch)
            bits, lengths = multihost_utils.process_allgather(
                (bits_of_batch(params, batch), batch["lengths"]), tiled=True
            )
            total_bits += float(np.sum(bits, dtype=np.float64))
            num_clips += int(np.sum(lengths > 0))
            num_samples += int(np.sum(lengths, dtype=np.int64))
        if not num_samples:
            raise ValueError("cannot evaluate: no clip has a sample that counts")
        return Likelihood(total_bits / num_samples, num_clips, num_samples)

    return evaluate
