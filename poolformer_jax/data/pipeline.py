"""From clips to batches of tokens: seeded, host-sharded, resumable from one number."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np

from poolformer_jax.audio.codec import SILENCE_CODE, encode
from poolformer_jax.data.builders.prepare import Source
from poolformer_jax.data.config import DataConfig

Batch = dict[str, np.ndarray]
"""`tokens` int32 [b, t], padded with the code of silence, and `lengths` int32 [b], in samples."""

# Enough to hide the decoding (0.5 ms a clip) behind any training step. Few batches are kept ready:
# one of 32 clips takes 2 MB.
_READ_OPTIONS = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)


def train_batches(
    source: Source,
    config: DataConfig,
    *,
    batch_size: int,
    start_example: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Yields training batches for ever.

    There is one global order of examples: epoch after epoch, each shuffled anew by the seed. A
    global batch is the next `batch_size * process_count` examples of it, of which each process
    takes its `batch_size` in a row. The order knows nothing of processes or of runs, so
    `start_example` is all that a run needs to go on where another stopped, with any number of
    processes.

    Args:
      source: The training split.
      config: Codec, sequence length and seed.
      batch_size: Examples per batch of this process.
      start_example: Examples consumed so far by all processes together.
      process_index: This process.
      process_count: Number of processes.

    Raises:
      ValueError: If a number is out of range or a global batch is larger than the split.
    """
    global_batch = _check_sizes(source, batch_size, process_index, process_count)
    if start_example < 0:
        raise ValueError(f"start_example must be at least 0, got {start_example}")
    if global_batch > len(source):
        raise ValueError(
            f"a batch of {batch_size} x {process_count} processes is larger than the split of "
            f"{len(source)} clips; use a batch size of at most {len(source) // process_count}"
        )
    order = grain.MapDataset.source(source).seed(config.seed).shuffle().repeat(None)

    def position(index: int) -> int:
        batch, row = divmod(index, batch_size)
        return start_example + batch * global_batch + process_index * batch_size + row

    dataset = (
        grain.MapDataset.range(sys.maxsize // global_batch)
        .map(lambda index: order[position(index)])
        .map(lambda example: _tokenize(example, config, config.train_len or config.seq_len))
        .batch(batch_size, drop_remainder=True)
    )
    return iter(dataset.to_iter_dataset(_READ_OPTIONS))


def eval_batches(
    source: Source,
    config: DataConfig,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Yields the whole split once, in order.

    All processes yield the same number of batches of the same size. The last ones are filled up
    with rows of length 0, so a sum over the first `lengths` samples of each row counts every sample
    of the split exactly once.

    Args:
      source: The split.
      config: Codec and sequence length.
      batch_size: Examples per batch of this process.
      process_index: This process.
      process_count: Number of processes; each takes every process_count-th example.

    Raises:
      ValueError: If a number is out of range or the split is empty.
    """
    global_batch = _check_sizes(source, batch_size, process_index, process_count)
    rows = -(-len(source) // global_batch) * global_batch
    filler = {"audio": np.zeros(0, np.int16), "length": 0}

    def tokenize(index: int) -> Batch:
        return _tokenize(source[index] if index < len(source) else filler, config, config.seq_len)

    dataset = (
        grain.MapDataset.range(process_index, rows, process_count).map(tokenize).batch(batch_size)
    )
    return iter(dataset.to_iter_dataset(_READ_OPTIONS))


def _tokenize(example: Mapping[str, Any], config: DataConfig, length: int) -> Batch:
    # The clip is encoded without its padding, and whole, so that its codes depend on neither the
    # padding nor the cut.
    pcm = example["audio"][: example["length"]]
    codes = encode(pcm, codec=config.codec, normalize=config.normalize)[:length]
    tokens = np.full(length, SILENCE_CODE, np.int32)
    tokens[: len(codes)] = codes
    return {"tokens": tokens, "lengths": np.asarray(len(codes), np.int32)}


def _check_sizes(source: Source, batch_size: int, process_index: int, process_count: int) -> int:
    """Returns the size of a global batch."""
    if not len(source):
        raise ValueError("the split is empty")
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {batch_size}")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not in 0 to {process_count - 1}")
    return batch_size * process_count
