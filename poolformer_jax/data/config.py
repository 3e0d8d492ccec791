"""What to train on: validated here, before anything heavy is imported."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, get_args

from poolformer_jax.audio.codec import CodecName

DATASETS = ("digits", "digits_tiny", "fsdd", "sc09", "beethoven", "youtubemix")

SAMPLE_RATE = 16_000
"""Of every data set, in Hz."""

NUM_CLASSES = {"digits": 10, "digits_tiny": 10, "fsdd": 10, "sc09": 10}
"""Labels of the data sets of speech; music has none."""

BUCKET_SCHEMES = ("gs", "s3", "az")  # Those that etils.epath opens.

Crop = Literal["start", "random"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set and how its clips become tokens.

    Attributes:
      name: "digits" (10,400 spoken digits, synthesised on first use) or "digits_tiny" (120 of them,
        for tests); "fsdd", "sc09", "beethoven" or "youtubemix", which `launch.prepare_data` makes
        from their published archives.
      partial: Whether to use the subset of such an archive that --allow_partial prepares.
      codec: "mu_law" or "linear" (8 bit), or "pcm16" (16 bit, for a model of 65,536 codes).
      normalize: Whether each clip's minimum and maximum are scaled to -1 and 1.
      seq_len: Tokens per example (samples at 16 kHz); longer clips are cut, in evaluation too, and
        shorter ones padded.
      train_len: Tokens of a training example: a part of each clip. None is seq_len, which
        evaluation always uses.
      crop: Which part: its "start", or one that begins at a "random" sample, drawn anew in every
        epoch. Either way a clip is normalised as a whole.
      data_dir: Where built data sets are kept; None is $XDG_CACHE_HOME/poolformer_jax or
        ~/.cache/poolformer_jax. A bucket (gs://, s3://, az://) is copied there before use.
      seed: Order and crops of the training examples.
      build_seed: Takes that the "digits" builder draws; each seed is built into its own folder. It
        is apart from `seed` so that runs of several seeds share one validation set.

    Raises:
      ValueError: On construction, for a value that cannot work.
    """

    name: str = "digits"
    partial: bool = False
    codec: CodecName = "mu_law"
    normalize: bool = True
    seq_len: int = 16_000
    train_len: int | None = None
    crop: Crop = "start"
    data_dir: str | None = None
    seed: int = 0
    build_seed: int = 0

    def __post_init__(self):
        if self.name not in DATASETS:
            raise ValueError(f"unknown data set name {self.name!r}; known: {', '.join(DATASETS)}")
        if self.codec not in get_args(CodecName):
            raise ValueError(
                f"unknown codec {self.codec!r}; known: {', '.join(get_args(CodecName))}"
            )
        if self.crop not in get_args(Crop):
            raise ValueError(f"unknown crop {self.crop!r}; known: {', '.join(get_args(Crop))}")
        for field in ("partial", "normalize"):
            value = getattr(self, field)
            if not isinstance(value, bool):
                raise ValueError(f"{field} must be True or False, got {value!r}")
        if self.partial and self.name.startswith("digits"):
            raise ValueError(f"partial is for published archives; {self.name!r} is always whole")
        if not _is_int(self.seq_len) or self.seq_len < 1:
            raise ValueError(
                f"seq_len must be a positive whole number of samples, got {self.seq_len!r}; "
                "one second is 16000"
            )
        if self.train_len is not None and not (
            _is_int(self.train_len) and 1 <= self.train_len <= self.seq_len
        ):
            raise ValueError(
                f"train_len must be None or a whole number in 1 to seq_len {self.seq_len}, got "
                f"{self.train_len!r}"
            )
        if self.data_dir is not None and not (isinstance(self.data_dir, str) and self.data_dir):
            raise ValueError(
                f"data_dir must be a path or None for the cache folder, got {self.data_dir!r}"
            )
        if self.data_dir and re.match(r"\w+:/", self.data_dir):
            schemes = "|".join(BUCKET_SCHEMES)
            if not re.match(rf"(?:{schemes})://[^/]", self.data_dir):
                raise ValueError(
                    f"data_dir {self.data_dir!r} is neither a path nor a bucket; buckets are "
                    f"written as {BUCKET_SCHEMES[0]}://bucket/folder, and may also be "
                    f"{' or '.join(f'{scheme}://' for scheme in BUCKET_SCHEMES[1:])}"
                )
        for field in ("seed", "build_seed"):
            value = getattr(self, field)
            if not _is_int(value) or not 0 <= value < 2**31:
                raise ValueError(f"{field} must be a whole number in 0 to 2^31 - 1, got {value!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledDataConfig:
    """A data set of labelled clips.

    Attributes:
      name: See `DataConfig`; one that has labels.
      partial: See `DataConfig`.
      data_dir: See `DataConfig`.
      build_seed: See `DataConfig`.
      noise_dir: Folder of 16-bit mono WAV files at 16 kHz, such as `_background_noise_` of Speech
        Commands, to mix into training clips; None is synthetic noise.

    Raises:
      ValueError: On construction, for a value that cannot work.
    """

    name: str = "sc09"
    partial: bool = False
    data_dir: str | None = None
    build_seed: int = 0
    noise_dir: str | None = None

    def __post_init__(self):
        _ = self.data_config
        if self.name not in NUM_CLASSES:
            raise ValueError(
                f"the data set {self.name!r} has no labels to learn; use one of "
                f"{', '.join(NUM_CLASSES)}"
            )
        if self.noise_dir is not None and not (isinstance(self.noise_dir, str) and self.noise_dir):
            raise ValueError(
                f"noise_dir must be a path or None for synthetic noise, got {self.noise_dir!r}"
            )

    @property
    def data_config(self) -> DataConfig:
        """The same data set, to be opened."""
        return DataConfig(
            name=self.name,
            partial=self.partial,
            data_dir=self.data_dir,
            build_seed=self.build_seed,
        )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
