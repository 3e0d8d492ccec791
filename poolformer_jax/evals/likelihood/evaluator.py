"""Likelihood of a whole split in bits: in all, of every clip, at every position of the clips.

Clips are read in chunks. The model's state is carried from chunk to chunk, so the result is that of
whole clips, and a chunk's memory on the devices is all that is needed, however long the clips are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding
from jaxtyping import Float, Float64, Int, Int64

from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.poolformer.model import Poolformer, PoolformerState, init_state
from poolformer_jax.ops.categorical import excess_sample_bits

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Likelihood:
    """Negative log-likelihood of a set of clips, base 2.

    Attributes:
      clip_indices: Which clips of the split these are, ascending.
      clip_bits: Bits of each clip.
      clip_samples: Samples of each clip that count, at least 1.
      position_bits: Bits of the t-th sample, summed over the clips.
      position_clips: Clips that have a t-th sample, at least 1.
    """

    clip_indices: Int64[np.ndarray, " b"]
    clip_bits: Float64[np.ndarray, " b"]
    clip_samples: Int64[np.ndarray, " b"]
    position_bits: Float64[np.ndarray, " t"]
    position_clips: Int64[np.ndarray, " t"]

    @property
    def bits_per_sample(self) -> float:
        """Mean over all samples that count."""
        return float(self.clip_bits.sum() / self.clip_samples.sum())

    def summary(self) -> dict[str, float | int]:
        """The mean, and over how many clips and samples."""
        return {
            "bits_per_sample": self.bits_per_sample,
            "num_clips": len(self.clip_bits),
            "num_samples": int(self.clip_samples.sum()),
        }


def choose_chunk_length(config: PoolformerConfig, length: int, *, limit: int) -> int:
    """The length of equal chunks, the fewest of at most `limit` samples, that cover `length`.

    It is a multiple of the total pooling factor, and that factor at the least.
    """
    total = config.total_pool_factor
    longest = max(total, limit // total * total)
    num_chunks = -(-length // longest)
    return _round_up(-(-length // num_chunks), total)


def check_chunk_length(config: PoolformerConfig, chunk_length: int) -> None:
    """Raises ValueError unless chunks of this length can be pooled."""
    total = config.total_pool_factor
    if chunk_length < 1 or chunk_length % total:
        below = chunk_length // total * total
        nearest = f"{below} or {below + total}" if below > 0 else f"{total}"
        raise ValueError(
            f"chunk length {chunk_length} is not a positive multiple of the total pooling factor "
            f"{total}; use {nearest}"
        )


def make_chunk_scorer(
    config: PoolformerConfig,
) -> Callable[[Any, PoolformerState, jax.Array], tuple[PoolformerState, jax.Array]]:
    """Builds the pure function (params, state, tokens) -> (state after them, excess bits [b, t]).

    See `excess_sample_bits`.
    """
    model = Poolformer(config)

    def score(
        params: Any, state: PoolformerState, tokens: jax.Array
    ) -> tuple[PoolformerState, jax.Array]:
        outputs: Any = model.apply({"params": params}, tokens, state)
        logits, state = outputs
        return state, excess_sample_bits(logits, tokens)

    return score


def make_likelihood_evaluator(
    config: PoolformerConfig,
    *,
    put_batch: Callable[[Mapping[str, np.ndarray]], Batch],
    chunk_length: int | None = None,
    state_sharding: Sharding | None = None,
) -> Callable[..., Likelihood | None]:
    """Builds a function that evaluates parameters on batches; it is compiled once.

    Args:
      config: Architecture.
      put_batch: Places a process's rows on the devices.
      chunk_length: Samples that a clip is read by, a multiple of the total pooling factor; None
        reads it at once.
      state_sharding: Where the state is between chunks; needed with several devices, where it is
        small enough to be replicated.

    Returns:
      evaluate(params, batches, should_stop=None) -> Likelihood, or None if `should_stop()` became
      true between two chunks. Batches have `tokens` [b, t], `lengths` [b] and `indices` [b], the
      clips' numbers, for a model with classes `labels` [b] too; rows of length 0 are filling. What
      comes from the devices is single samples in float32, and every sum is taken in float64: the
      result depends on batch size, chunk length and number of devices and processes only through
      the rounding of the logits.

    Raises:
      ValueError: If the chunk length cannot be pooled, or, from `evaluate`, if no sample counts.
    """
    if chunk_length is not None:
        check_chunk_length(config, chunk_length)
    score = jax.jit(make_chunk_scorer(config), out_shardings=(state_sharding, None))

    def start(rows: Batch) -> PoolformerState:
        labels = rows["labels"] if config.num_classes else None
        return init_state(config, rows["lengths"].shape[0], labels)

    start_state = jax.jit(start, out_shardings=state_sharding)

    def evaluate(
        params: Any,
        batches: Iterable[Mapping[str, np.ndarray]],
        should_stop: Callable[[], bool] | None = None,
    ) -> Likelihood | None:
        sums = _Sums(math.log2(config.num_codes))
        for local_batch in batches:
            tokens = local_batch["tokens"]
            length = chunk_length or _round_up(tokens.shape[1], config.total_pool_factor)
            rows = put_batch({name: x for name, x in local_batch.items() if name != "tokens"})
            lengths, indices = multihost_utils.process_allgather(
                (rows["lengths"], rows["indices"]), tiled=True
            )
            sums.start_batch(lengths, indices)
            state = start_state(rows)
            for start in range(0, int(lengths.max()), length):
                if should_stop is not None and should_stop():
                    return None
                chunk = put_batch({"tokens": _slice_chunk(tokens, start, length)})
                state, excess = score(params, state, chunk["tokens"])
                sums.add(start, multihost_utils.process_allgather(excess, tiled=True))
        return sums.likelihood()

    return evaluate


class _Sums:
    """What the chunks' bits add up to, in float64.

    Args:
      uniform_bits: Bits per sample of a uniform model, which the chunks' bits leave out.
    """

    def __init__(self, uniform_bits: float):
        self._uniform_bits = uniform_bits
        self._lengths: list[np.ndarray] = []
        self._indices: list[np.ndarray] = []
        self._clip_excess: list[np.ndarray] = []
        self._position_excess = np.zeros(0)

    def start_batch(self, lengths: Int[np.ndarray, " b"], indices: Int[np.ndarray, " b"]) -> None:
        self._lengths.append(lengths.astype(np.int64))
        self._indices.append(indices.astype(np.int64))
        self._clip_excess.append(np.zeros(len(lengths)))

    def add(self, start: int, excess: Float[np.ndarray, "b t"]) -> None:
        """Adds the batch's samples from position `start` on, padding among them."""
        positions = start + np.arange(excess.shape[1])
        counts = positions < self._lengths[-1][:, None]
        excess = np.where(counts, excess, 0.0).astype(np.float64)
        self._clip_excess[-1] += excess.sum(axis=1)
        missing = start + excess.shape[1] - len(self._position_excess)
        if missing > 0:
            self._position_excess = np.pad(self._position_excess, (0, missing))
        self._position_excess[positions] += excess.sum(axis=0)

    def likelihood(self) -> Likelihood:
        lengths = np.concatenate([*self._lengths, np.zeros(0, np.int64)])
        if not lengths.any():
            raise ValueError("cannot evaluate: no clip has a sample that counts")
        indices, excess = np.concatenate(self._indices), np.concatenate(self._clip_excess)
        # Processes take turns with the clips, and the devices' order is not that of the clips.
        order = np.argsort(indices)
        order = order[lengths[order] > 0]
        lengths = lengths[order]
        ended = np.cumsum(np.bincount(lengths))[:-1]  # Clips of at most t samples.
        clips = len(lengths) - ended
        return Likelihood(
            clip_indices=indices[order],
            clip_bits=excess[order] + lengths * self._uniform_bits,
            clip_samples=lengths,
            position_bits=self._position_excess[: len(clips)] + clips * self._uniform_bits,
            position_clips=clips,
        )


def _slice_chunk(tokens: Int[np.ndarray, "b t"], start: int, length: int) -> np.ndarray:
    """Tokens from `start` on; the last chunk is filled up with codes that do not count."""
    chunk = tokens[:, start : start + length]
    return np.pad(chunk, ((0, 0), (0, length - chunk.shape[1])))


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
