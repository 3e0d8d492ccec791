"""From clips to batches of tokens: seeded, host-sharded, resumable from one number."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from poolformer_jax.audio.codec import encode, silence_code
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.errors import UnreadableClipError
from poolformer_jax.data.source import Source

Batch = dict[str, np.ndarray]
"""`tokens` int32 [b, t], padded with the code of silence, and `lengths` int32 [b], in samples; of a
data set with labels also `labels` int32 [b]."""

# Reading and encoding a clip is a chain of calls too short for Python's threads to share well: one
# thread beside the training loop is faster than several. Few batches are kept ready: one of 32
# one-second clips takes 2 MB.
_READ_OPTIONS = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)


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
    processes. A random crop depends on the seed and on the example's position in the order.

    Args:
      source: The training split.
      config: Codec, length, crop and seed.
      batch_size: Examples per batch of this process.
      start_example: Examples consumed so far by all processes together.
      process_index: This process.
      process_count: Number of processes.

    Raises:
      ValueError: If a number is out of range or a global batch is larger than the split.
      UnreadableClipError: Later, with the batch that has the clip.
    """
    global_batch = _check_sizes(source, batch_size, process_index, process_count)
    if start_example < 0:
        raise ValueError(f"start_example must be at least 0, got {start_example}")
    if global_batch > len(source):
        raise ValueError(
            f"a batch of {batch_size} x {process_count} processes is larger than the split of "
            f"{len(source)} clips; use a batch size of at most {len(source) // process_count}"
        )
    order = grain.MapDataset.range(len(source)).seed(config.seed).shuffle().repeat(None)
    length, read = config.training_length, _reader(source)

    def start_of_crop(position: int, num_samples: int) -> int:
        if config.crop == "start" or num_samples <= length:
            return 0
        rng = np.random.default_rng((config.seed, position))
        return int(rng.integers(num_samples - length, endpoint=True))

    def batch_at(index: int) -> Batch:
        first = start_example + index * global_batch + process_index * batch_size
        positions = range(first, first + batch_size)
        examples = [read(order[position]) for position in positions]
        starts = [
            start_of_crop(position, len(example["audio"]))
            for position, example in zip(positions, examples, strict=True)
        ]
        return _make_batch(examples, config, starts, length)

    return _prefetch(batch_at, sys.maxsize // global_batch)


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
    of the split exactly once. Batches also have `indices` int32 [b]: which clip of the split each
    row is.

    Args:
      source: The split.
      config: Codec and sequence length.
      batch_size: Examples per batch of this process.
      process_index: This process.
      process_count: Number of processes; each takes every process_count-th example.

    Raises:
      ValueError: If a number is out of range or the split is empty.
      UnreadableClipError: Later, with the batch that has the clip.
    """
    global_batch = _check_sizes(source, batch_size, process_index, process_count)
    read = _reader(source)

    def example_at(index: int) -> Mapping[str, Any]:
        if index < len(source):
            return read(index)
        return {**read(0), "audio": np.zeros(0, np.int16)}

    def batch_at(index: int) -> Batch:
        first = index * global_batch + process_index
        indices = range(first, first + global_batch, process_count)
        examples = [example_at(i) for i in indices]
        batch = _make_batch(examples, config, [0] * batch_size, config.seq_len)
        return batch | {"indices": np.array(indices, np.int32)}

    return _prefetch(batch_at, -(-len(source) // global_batch))


def _reader(source: Source) -> Callable[[int], Mapping[str, Any]]:
    def read(index: int) -> Mapping[str, Any]:
        try:
            return source[index]
        except Exception as error:  # TFDS and ArrayRecord raise all kinds.
            reason = f"{type(error).__name__}: {error}".partition("\n")[0][:150]
            raise UnreadableClipError(
                f"clip {index} of {len(source):,} cannot be read ({reason}); run the same command "
                "again: it verifies the data set first"
            ) from error

    return read


def _make_batch(
    examples: Sequence[Mapping[str, Any]], config: DataConfig, starts: Sequence[int], length: int
) -> Batch:
    tokens = np.full((len(examples), length), silence_code(config.codec), np.int32)
    lengths = np.zeros(len(examples), np.int32)
    for row, (example, start) in enumerate(zip(examples, starts, strict=True)):
        part = slice(start, start + length)
        codes = encode(example["audio"], codec=config.codec, normalize=config.normalize, part=part)
        tokens[row, : len(codes)] = codes
        lengths[row] = len(codes)
    batch = {"tokens": tokens, "lengths": lengths}
    if "label" in examples[0]:
        batch["labels"] = np.array([example["label"] for example in examples], np.int32)
    return batch


def _prefetch(batch_at: Callable[[int], Batch], num_batches: int) -> Iterator[Batch]:
    return iter(grain.MapDataset.range(num_batches).map(batch_at).to_iter_dataset(_READ_OPTIONS))


def _check_sizes(source: Source, batch_size: int, process_index: int, process_count: int) -> int:
    """Returns the size of a global batch."""
    if not len(source):
        raise ValueError("the split is empty")
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {batch_size}")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not in 0 to {process_count - 1}")
    return batch_size * process_count
