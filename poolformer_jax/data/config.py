"""What to train on: validated here, before anything heavy is imported."""

from __future__ import annotations

import dataclasses
from typing import get_args

from poolformer_jax.audio.codec import CodecName

DATASETS = ("digits", "digits_tiny", "sc09")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set and how its clips become tokens.

    Attributes:
      name: "digits" (10,400 spoken digits, synthesised on first use), "digits_tiny" (120 of them,
        for tests) or "sc09".
      codec: 8-bit codec, "mu_law" or "linear".
      normalize: Whether each clip's minimum and maximum are scaled to -1 and 1.
      seq_len: Tokens per example (samples at 16 kHz); longer clips are cut, shorter ones padded.
      train_len: Tokens of a training example: the beginning of each clip, up to here. None is
        seq_len. Evaluation always sees whole clips.
      data_dir: Where built data sets are kept; None is $XDG_CACHE_HOME/poolformer_jax or
        ~/.cache/poolformer_jax.
      seed: Order of the training examples.
      build_seed: Takes that the "digits" builder draws; each seed is built into its own folder. It
        is apart from `seed` so that runs of several seeds share one validation set.

    Raises:
      ValueError: On construction, for a value that cannot work.
    """

    name: str = "digits"
    codec: CodecName = "mu_law"
    normalize: bool = True
    seq_len: int = 16_000
    train_len: int | None = None
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
        if not isinstance(self.normalize, bool):
            raise ValueError(f"normalize must be True or False, got {self.normalize!r}")
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
        for field in ("seed", "build_seed"):
            value = getattr(self, field)
            if not _is_int(value) or not 0 <= value < 2**31:
                raise ValueError(f"{field} must be a whole number in 0 to 2^31 - 1, got {value!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
