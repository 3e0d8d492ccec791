"""Opens a data set after every byte on disk has been verified, and tells what it is."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from poolformer_jax.buckets import is_bucket
from poolformer_jax.data.builders import bucket
from poolformer_jax.data.builders.folders import MANIFEST, cache_dir, find_fault
from poolformer_jax.data.builders.prepare import (
    is_complete,
    location,
    prepare,
    prepare_command,
    relative_folder,
)
from poolformer_jax.data.config import DataConfig, DatasetConfig
from poolformer_jax.data.datasets import SAMPLE_RATE

Source = Sequence[Mapping[str, Any]]
"""Random access to decoded examples: `audio` int16 [t], `name`, and of speech `label` (an int) and
`speaker`."""

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What results on a data set depend on.

    Attributes:
      class_names: Names of the labels, in order; of music there are none.
      manifest_sha256: SHA-256 of the list of all its files' SHA-256, so of every byte.
    """

    class_names: tuple[str, ...]
    manifest_sha256: str


def open_splits(config: DatasetConfig) -> Mapping[str, Source]:
    """Opens "train", "validation" and "test" of a complete data set.

    The size and SHA-256 of every file are compared with the manifest that was written after the
    build. The digits are built here if they are missing or damaged; other data sets are prepared
    beforehand, because they need their archives. A data set in a bucket is copied to the cache
    folder first. Processes that share a folder build and copy one at a time.

    Args:
      config: Names the data set and its data_dir.

    Returns:
      TFDS data sources: sequences of examples, each decoded when it is asked for.

    Raises:
      FileNotFoundError: If the data set is not there, or damaged; the message says how to make it.
      ImportError: If the digits must be built and eSpeak NG is not installed.
      OSError: If the bucket cannot be read.
      ValueError: If data_dir cannot be written.
    """
    builder = tfds.builder_from_directory(_complete_folder(config))
    return {split: builder.as_data_source(split) for split in SPLITS}


def evaluated_clips(source: Source, config: DataConfig) -> Source:
    """The clips of a split that an evaluation reads: all, or config.eval_clips of them."""
    if config.eval_clips is None or config.eval_clips >= len(source):
        return source
    return _Part(source, [i * len(source) // config.eval_clips for i in range(config.eval_clips)])


@dataclasses.dataclass(frozen=True)
class _Part(Sequence[Mapping[str, Any]]):
    """Some examples of a source, decoded when they are asked for."""

    source: Source
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.source[self.indices[index]]


def describe_dataset(config: DatasetConfig) -> DatasetFacts:
    """Tells what a complete data set is; builds, copies, verifies and raises as `open_splits`."""
    folder = _complete_folder(config)
    return DatasetFacts(
        class_names=label_names(tfds.builder_from_directory(folder).as_data_source("train")),
        manifest_sha256=_manifest_sha256(folder),
    )


def dataset_facts(splits: Mapping[str, Source]) -> dict[str, str]:
    """What hosts compare of an open data set: its manifest's SHA-256, and clips of every split."""
    source: Any = splits["train"]
    sizes = ", ".join(f"{len(clips):,} {split}" for split, clips in splits.items())
    manifest = _manifest_sha256(pathlib.Path(source.dataset_info.data_dir))
    return {"data set": f"{sizes} clips of manifest {manifest[:12]}"}


def label_names(source: Source) -> tuple[str, ...]:
    """Names of the classes of a data set, in the order of its labels; of music there are none."""
    tfds_source: Any = source
    features = tfds_source.dataset_info.features
    return tuple(features["label"].names) if "label" in features else ()


def as_text(value: Any) -> str:
    """A field of an example as text: TFDS gives bytes."""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def describe_split(source: Source) -> str:
    """Reads a whole split, and tells its clips, seconds and speakers in a line."""
    lengths = []
    speakers: collections.Counter[str] = collections.Counter()
    for index in range(len(source)):
        example = source[index]
        lengths.append(len(example["audio"]))
        if "speaker" in example:
            speakers[as_text(example["speaker"])] += 1
    seconds = np.array(lengths) / SAMPLE_RATE
    parts = [
        f"{len(source):,} clips",
        f"{seconds.sum():,.0f} s of audio",
        f"{seconds.min():.2f} to {seconds.max():.2f} s each",
    ]
    if speakers:
        parts.append(f"{len(speakers):,} speakers")
        fewest, most = min(speakers.values()), max(speakers.values())
        parts.append(f"{fewest:,}{f' to {most:,}' if most != fewest else ''} clips of each")
    return ", ".join(parts)


def _manifest_sha256(folder: pathlib.Path) -> str:
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def _complete_folder(config: DatasetConfig) -> pathlib.Path:
    place = location(config)
    if is_bucket(place):
        copy = bucket.copy_to_disk(place, cache_dir() / "buckets" / relative_folder(config))
        if copy is not None:
            return copy
        fault: str | None = f"{place} holds no complete data set"
    else:
        folder = pathlib.Path(place)
        # The usual case, without the lock, so that a finished data_dir may be read-only.
        fault = find_fault(folder)
        if fault is None:
            return folder
        if not config.dataset.has_archive:
            prepare(config)
            return folder
    message = (
        f"the data set {config.name!r} is not ready ({fault}); make it with: "
        f"{prepare_command(config)}"
    )
    part_would_do = config.dataset.has_archive and not config.partial
    if part_would_do and is_complete(dataclasses.replace(config, partial=True)):
        message += "; a subset is there: to train on it, set config.data.partial=True"
    raise FileNotFoundError(message)
