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
from jax.sharding import Mesh
from jaxtyping import Float, Float64, Int, Int64

from poolformer_jax import sharding
from poolformer_jax.models.config import HasChunkMultiple, check_length
from poolformer_jax.models.sequence_model import SequenceModel, State
from poolformer_jax.ops.categorical import excess_bits


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


def choose_chunk_length(model: HasChunkMultiple, length: int, *, limit: int, parts: int = 1) -> int:
    """The length of equal chunks, the fewest of at most `limit` samples, that cover `length`.

    It is a multiple of the model's `chunk_multiple`, and that at the least, in each of the parts
    that a mesh splits time into.
    """
    multiple = parts * model.chunk_multiple
    longest = max(multiple, limit // multiple * multiple)
    num_chunks = -(-length // longest)
    return _round_up(-(-length // num_chunks), multiple)


def make_likelihood_evaluator(
    model: SequenceModel, mesh: Mesh, *, chunk_length: int | None = None
) -> Callable[..., Likelihood | None]:
    """Builds a function that evaluates parameters on batches; it is compiled once.

    Args:
      model: What gives the likelihood.
      mesh: Devices that the clips are split over. The state between chunks is replicated: it is
        small.
      chunk_length: Samples that a clip is read by, a multiple of the model's `chunk_multiple`;
        None reads it at once.

    Returns:
      evaluate(params, batches, should_stop=None) -> Likelihood, or None if `should_stop()` became
      true between two chunks. Batches have `tokens` [b, t], `lengths` [b] and `indices` [b], the
      clips' numbers, for a model with classes `labels` [b] too; rows of length 0 are filling. What
      comes from the devices is single samples in float32, and every sum is taken in float64: the
      result depends on batch size, chunk length and number of devices and processes only through
      the rounding of the logits.

    Raises:
      ValueError: If the chunk length is no such multiple, or, from `evaluate`, if no sample counts.
    """
    time_parts = mesh.shape[sharding.SEQUENCE]
    if chunk_length is not None:
        check_length(model, chunk_length, what="chunk length", parts=time_parts)

    def start(rows: Mapping[str, jax.Array]) -> State:
        labels = rows["labels"] if model.num_classes else None
        return sharding.replicate(mesh, model.init_state(rows["lengths"].shape[0], labels))

    def score_chunk(params: Any, codes: jax.Array, state: State) -> tuple[jax.Array, State]:
        log_probs, state = model.log_probs(params, codes, state)
        return excess_bits(log_probs, model.num_codes), sharding.replicate(mesh, state)

    start_state = jax.jit(start)
    score = jax.jit(sharding.on_mesh(mesh, score_chunk))

    def evaluate(
        params: Any,
        batches: Iterable[Mapping[str, np.ndarray]],
        should_stop: Callable[[], bool] | None = None,
    ) -> Likelihood | None:
        sums = _Sums(math.log2(model.num_codes))
        for local_batch in batches:
            tokens = local_batch["tokens"]
            length = chunk_length or _round_up(tokens.shape[1], time_parts * model.chunk_multiple)
            rest = {name: x for name, x in local_batch.items() if name != "tokens"}
            rows = sharding.put_batch(mesh, rest)
            lengths, indices = multihost_utils.process_allgather(
                (rows["lengths"], rows["indices"]), tiled=True
            )
            sums.start_batch(lengths, indices)
            state = start_state(rows)
            for start in range(0, int(lengths.max()), length):
                if should_stop is not None and should_stop():
                    return None
                chunk = sharding.put_batch(mesh, {"tokens": _slice_chunk(tokens, start, length)})
                excess, state = score(params, chunk["tokens"], state)
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
