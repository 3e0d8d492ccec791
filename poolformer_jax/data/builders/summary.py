"""What is in a data set, in a line."""

from __future__ import annotations

import collections

import numpy as np

from poolformer_jax.data.builders.prepare import Source
from poolformer_jax.data.config import SAMPLE_RATE


def describe_split(source: Source) -> str:
    """Reads a whole split, and tells its clips, seconds and speakers."""
    lengths = []
    speakers: collections.Counter[str] = collections.Counter()
    for index in range(len(source)):
        example = source[index]
        lengths.append(len(example["audio"]))
        if "speaker" in example:
            speakers[example["speaker"].decode()] += 1
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
