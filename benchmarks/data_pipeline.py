"""How fast are clips read and encoded for training, beside reading the bare records?

    python -m benchmarks.data_pipeline

Writes SC09-sized clips as WAV files, prepares them like the published archive, and then reads them
in the training order, in turns: the bare records by ArrayRecord, the decoded examples by TFDS, and
batches of tokens by the training pipeline with each codec. All files are in the page cache, and
nothing else runs.

Wanted: at least 3,000 clips/s with mu_law on two cores (training at the published speed consumes
100). Measured there: 0.20 (mu_law), 0.26 (linear) and 0.28 (pcm16) of the speed of bare reading;
with mu_law 4,700 to 5,100 clips/s.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import flags
from array_record.python.array_record_data_source import ArrayRecordDataSource

from benchmarks.side_by_side import define_rounds, in_turns, medians
from launch import command_line
from poolformer_jax.audio.codec import NUM_CODES
from poolformer_jax.audio.wav import write_wav
from poolformer_jax.data.builders.features import DIGIT_WORDS
from poolformer_jax.data.builders.prepare import prepare
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.datasets import SAMPLE_RATE
from poolformer_jax.data.pipeline import train_batches
from poolformer_jax.data.source import open_splits

_FLAGS = flags.FlagValues()
_CLIPS = flags.DEFINE_integer(
    "clips", 4_096, "Training clips, 32 kB each.", lower_bound=64, flag_values=_FLAGS
)
_ROUNDS = define_rounds(_FLAGS)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 32, "Clips in a batch.", lower_bound=1, flag_values=_FLAGS
)

_WARM_UP_BATCHES = 4  # Batches that the pipeline keeps ready are no measure of its speed.


def main(argv):
    """Prepares, measures, prints."""
    del argv
    with tempfile.TemporaryDirectory(prefix="poolformer_benchmark_") as folder:
        config = DataConfig(name="sc09", partial=True, data_dir=f"{folder}/data")
        _write_archive(pathlib.Path(folder) / "sc09", _CLIPS.value)
        prepare(config, manual_dir=f"{folder}/sc09")
        source = open_splits(config)["train"]
        records = ArrayRecordDataSource(
            sorted(map(str, pathlib.Path(folder).rglob("*-train.array_record*")))
        )
        order = np.random.default_rng(0).permutation(len(source))
        ways: dict[str, Callable[[], float]] = {
            "ArrayRecord, bare records": functools.partial(_speed_of_reading, records, order),
            "TFDS, decoded examples": functools.partial(_speed_of_reading, source, order),
        }
        for codec in NUM_CODES:
            coded = dataclasses.replace(config, codec=codec)
            ways[f"train_batches, {codec}"] = functools.partial(_speed_of_batches, source, coded)
        speeds = medians(in_turns(ways, _ROUNDS.value))
    bare = speeds["ArrayRecord, bare records"]
    print(f"\n{len(source):,} clips of {SAMPLE_RATE:,} samples, batches of {_BATCH_SIZE.value}")
    for name, speed in speeds.items():
        print(f"{name:28} {speed:8,.0f} clips/s   {speed / bare:.2f} x bare reading")


def _write_archive(folder: pathlib.Path, clips: int) -> None:
    """Noise of the loudness of speech, in the layout of SC09."""
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    held_out = itertools.cycle(lists.values())
    for index in range(clips + 2 * max(1, clips // 128)):
        name = f"{DIGIT_WORDS[index % 10]}/{index:08x}_nohash_0.wav"
        if index >= clips:
            next(held_out).append(name)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.normal(0, rng.uniform(500, 6_000), SAMPLE_RATE).clip(-(2**15), 2**15 - 1)
        write_wav(path, noise.astype(np.int16), SAMPLE_RATE)
    for file, names in lists.items():
        (folder / file).write_text("\n".join(names), encoding="utf-8")


def _speed_of_reading(source, order: np.ndarray) -> float:
    start = time.perf_counter()
    for index in order:
        source[int(index)]
    return len(order) / (time.perf_counter() - start)


def _speed_of_batches(source, config: DataConfig) -> float:
    """Clips/s of this process."""
    batches = train_batches(source, config, batch_size=_BATCH_SIZE.value, start_example=0)
    for _ in range(_WARM_UP_BATCHES):
        next(batches)
    count = max(1, len(source) // _BATCH_SIZE.value)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * _BATCH_SIZE.value / (time.perf_counter() - start)


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
