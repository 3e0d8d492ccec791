"""What to train on: validated here, before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from poolformer_jax.audio.codec import CodecName
from poolformer_jax.config_checks import check_range, check_seed, check_types
from poolformer_jax.data.datasets import DATASETS, MAX_LENGTH, Dataset

BUCKET_SCHEMES = ("gs", "s3", "az")  # Those that etils.epath opens.

Crop = Literal["start", "random"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Which data set, and where it is kept.

    Attributes:
      name: "digits" (10,400 spoken digits, synthesised on first use) or "digits_tiny" (120 of them,
        for tests); "digits_steady" (5,000, in one voice, at one fast rate and one pitch);
        "digits_pitches" (8,000, in that voice at 41 pitches); "fsdd", "sc09", "beethoven" or
        "youtubemix", which `launch.prepare_data` makes from their published archives.
      partial: Whether to use the subset of such an archive that --allow_partial prepares.
      data_dir: Where built data sets are kept; None is $XDG_CACHE_HOME/poolformer_jax or
        ~/.cache/poolformer_jax. A bucket (gs://, s3://, az://) is copied there before use.
      build_seed: Takes that the "digits" builder draws; each seed is built into its own folder. It
        is apart from the seeds of training so that runs of several seeds share one validation set.

    Raises:
      ValueError: On construction, for a value that cannot work.
    """

    name: str
    partial: bool = False
    data_dir: str | None = None
    build_seed: int = 0

    def __post_init__(self):
        check_types(self)
        if self.name not in DATASETS:
            raise ValueError(f"unknown data set name {self.name!r}; known: {', '.join(DATASETS)}")
        if self.partial and not self.dataset.has_archive:
            raise ValueError(f"partial is for published archives; {self.name!r} is always whole")
        if self.data_dir == "":
            raise ValueError("data_dir must be a path or None for the cache folder, got ''")
        # A URL, but none of a bucket.
        if re.match(rf"(?!(?:{'|'.join(BUCKET_SCHEMES)})://[^/])\w+:/", self.data_dir or ""):
            raise ValueError(
                f"data_dir {self.data_dir!r} is neither a path nor a bucket; buckets are written "
                f"as {BUCKET_SCHEMES[0]}://bucket/folder, and may also be "
                f"{' or '.join(f'{scheme}://' for scheme in BUCKET_SCHEMES[1:])}"
            )
        check_seed(self, "build_seed")

    @property
    def dataset(self) -> Dataset:
        """What is known of the data set."""
        return DATASETS[self.name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(DatasetConfig):
    """A data set and how its clips become tokens; see also `DatasetConfig`.

    Attributes:
      codec: "mu_law" or "linear" (8 bit), or "pcm16" (16 bit, for a model of 65,536 codes).
      normalize: Whether each clip's minimum and maximum are scaled to -1 and 1, as published. It
        moves silence off the middle code, to another one in each clip, unless both are as loud.
      seq_len: Tokens per example (samples at 16 kHz); longer clips are cut, in evaluation too, and
        shorter ones padded.
      train_len: Tokens of a training example: a part of each clip. None is seq_len, which
        evaluation always uses.
      crop: Which part: its "start", or one that begins at a "random" sample, drawn anew in every
        epoch. Either way a clip is normalised as a whole.
      eval_clips: Clips of the validation and test split that are evaluated, spread evenly over it;
        None is all of them, as published figures have it.
      seed: Order and crops of the training examples.
    """

    name: str = "digits"
    codec: CodecName = "mu_law"
    normalize: bool = True
    seq_len: int = 16_000
    train_len: int | None = None
    crop: Crop = "start"
    eval_clips: int | None = None
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_range("seq_len", self.seq_len, 1, MAX_LENGTH)
        if self.train_len is not None and not 1 <= self.train_len <= self.seq_len:
            raise ValueError(
                f"train_len {self.train_len} must be None, or in 1 to seq_len {self.seq_len}"
            )
        if self.eval_clips is not None and self.eval_clips < 1:
            raise ValueError(f"eval_clips {self.eval_clips} must be at least 1, or None for all")
        check_seed(self)

    @property
    def training_length(self) -> int:
        """Tokens of a training example."""
        return self.train_len or self.seq_len


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledDataConfig(DatasetConfig):
    """A data set of labelled clips; see also `DatasetConfig`.

    Attributes:
      noise_dir: Folder of 16-bit mono WAV files at 16 kHz, such as `_background_noise_` of Speech
        Commands, to mix into training clips; None is synthetic noise.
    """

    name: str = "sc09"
    noise_dir: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.dataset.num_classes:
            labelled = ", ".join(name for name, known in DATASETS.items() if known.num_classes)
            raise ValueError(
                f"the data set {self.name!r} has no labels to learn; use one of {labelled}"
            )
        if self.noise_dir == "":
            raise ValueError("noise_dir must be a path or None for synthetic noise, got ''")
