"""The one table of data sets: what each of them is, and which file builds it."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping
from typing import Any

from poolformer_jax.audio.codec import CodecName

SAMPLE_RATE = 16_000
"""In Hz; builders resample what is published at another rate."""

MAX_LENGTH = 24 * 60 * 60 * SAMPLE_RATE
"""Samples of the longest clip, a day: more is a slip of the keyboard."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is known of a data set before anything is loaded.

    Attributes:
      builder: "module:Class" in `data/builders/`, imported on use. Besides what TFDS asks of a
        builder, the class has `recipe(config: DatasetConfig)`, which returns its configuration.
      num_classes: Number of labels; 0 for music, which has none.
      codec: The codec that published results use.
      sample_rate: In Hz, of the clips that are built.
      has_archive: Whether it is built from a published archive, which may also be prepared in part;
        otherwise it is synthesised.
      options: More fields of the builder's configuration.
    """

    builder: str
    num_classes: int = 0
    codec: CodecName = "mu_law"
    sample_rate: int = SAMPLE_RATE
    has_archive: bool = True
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def load_builder(self) -> Any:
        """Imports the builder's class, and with it TFDS."""
        return pkgutil.resolve_name(f"poolformer_jax.data.builders.{self.builder}")


_TINY = {"voices": (8, 2, 2), "takes": 1}  # 80 / 20 / 20 clips.
# 4,000 / 500 / 500 clips: the shortest words that are still understood, and silence behind them.
_STEADY = {
    "speakers": ("m3",),
    "takes": 500,
    "accents": ("en-us",),
    "rates": (280, 280),
    "pitches": (50, 50),
    "pitch_ranges": (50, 50),
    "min_samples": 4_480,
}
# 6,400 / 800 / 800 clips: the same voice at 41 pitches with 21 ranges.
_PITCHES = _STEADY | {
    "takes": 800,
    "pitches": (30, 70),
    "pitch_ranges": (40, 60),
    "min_samples": 4_640,
}

DATASETS: Mapping[str, Dataset] = {
    "digits": Dataset(builder="digits:Digits", num_classes=10, has_archive=False),
    "digits_tiny": Dataset(
        builder="digits:Digits", num_classes=10, has_archive=False, options=_TINY
    ),
    "digits_steady": Dataset(
        builder="digits:Digits", num_classes=10, has_archive=False, options=_STEADY
    ),
    "digits_pitches": Dataset(
        builder="digits:Digits", num_classes=10, has_archive=False, options=_PITCHES
    ),
    "fsdd": Dataset(builder="fsdd:Fsdd", num_classes=10),
    "sc09": Dataset(builder="sc09:Sc09", num_classes=10),
    "beethoven": Dataset(builder="beethoven:Beethoven", codec="linear"),
    "youtubemix": Dataset(builder="youtubemix:Youtubemix"),
}
