"""Clips and their labels in memory, to train a classifier on: balanced batches, noise."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int16, Int32, Int64

from poolformer_jax.audio.wav import read_wav
from poolformer_jax.data.datasets import SAMPLE_RATE
from poolformer_jax.data.source import Source

_NOISE_CLIPS = 400  # About as many seconds as the recordings of Speech Commands last.
_NOISE_LEVEL = 0.05  # Root mean square, about that of a spoken word in the data sets here.


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledClips:
    """One-second clips of 16 bit, padded with zeros on the right, or cut, as WAV files hold them.

    They are not encoded, and their loudness is left as it is, as in the published protocol: a
    classifier hears the samples divided by 2^15 through `log_mel`, whose levels are relative to the
    clip's maximum. So generated clips, which have full scale, need no other treatment.

    Attributes:
      audio: [b, samples].
      labels: [b].
    """

    audio: Int16[np.ndarray, "b 16000"]
    labels: Int32[np.ndarray, " b"]

    def __len__(self) -> int:
        return len(self.labels)


def read_labelled_clips(source: Source) -> LabelledClips:
    """Reads a split: 32 kB a clip, 1 GB for the training clips of SC09."""
    audio = np.zeros((len(source), SAMPLE_RATE), np.int16)
    labels = np.zeros(len(source), np.int32)
    for row in range(len(source)):
        example = source[row]
        clip = example["audio"][:SAMPLE_RATE]
        audio[row, : len(clip)] = clip
        labels[row] = example["label"]
    return LabelledClips(audio, labels)


def label_names(source: Source) -> tuple[str, ...]:
    """Names of the classes of a data set, in the order of its labels."""
    tfds_source: Any = source
    return tuple(tfds_source.dataset_info.features["label"].names)


def balanced_batches(
    labels: Int32[np.ndarray, " b"], *, batch_size: int, rng: np.random.Generator
) -> Iterator[Int64[np.ndarray, " b"]]:
    """Yields an epoch of batches of clips' numbers, drawn with replacement.

    Every class that is there comes equally often on average, and every clip of a class. There are
    as many draws as clips, and as many more as the last batch lacks.
    """
    weights = 1.0 / np.bincount(labels)[labels]
    num_batches = -(-len(labels) // batch_size)
    draws = rng.choice(len(labels), num_batches * batch_size, p=weights / weights.sum())
    yield from draws.reshape(num_batches, batch_size)


def read_noise(folder: str | os.PathLike[str]) -> Int16[np.ndarray, "b 16000"]:
    """Reads all WAV files of a folder, cut into seconds; a file's last part of one is left out.

    Raises:
      ValueError: If there is no whole second, or a file is not 16-bit mono at 16 kHz.
    """
    parts = [np.zeros((0, SAMPLE_RATE), np.int16)]
    for path in sorted(pathlib.Path(folder).expanduser().glob("*.wav")):
        pcm, rate = read_wav(path)
        if rate != SAMPLE_RATE:
            raise ValueError(f"{path} has {rate} Hz, expected {SAMPLE_RATE}; resample it")
        seconds = len(pcm) // SAMPLE_RATE
        parts.append(pcm[: seconds * SAMPLE_RATE].reshape(seconds, SAMPLE_RATE))
    noise = np.concatenate(parts)
    if not len(noise):
        raise ValueError(
            f"noise_dir {os.fspath(folder)} holds no WAV file of a second or more; name a folder "
            "of noise recordings, or leave it out for synthetic noise"
        )
    return noise


def synthetic_noise(seed: int) -> Int16[np.ndarray, "b 16000"]:
    """Makes 400 seconds of noise between white and red.

    A stand-in for the recordings of Speech Commands, two of whose six files are white and pink
    noise; it has nothing of the others: a tap, dishes, a bicycle, a person who miaows. The power
    falls with frequency like f^-a, a in [0, 2], and the root mean square is 0.05 of full scale.
    """
    rng = np.random.default_rng(seed)
    exponent = rng.uniform(0.0, 2.0, (_NOISE_CLIPS, 1))
    frequency = np.arange(1, SAMPLE_RATE // 2 + 1)
    spectrum = np.fft.rfft(rng.standard_normal((_NOISE_CLIPS, SAMPLE_RATE)))
    spectrum[:, 0] = 0.0
    spectrum[:, 1:] *= frequency ** (-exponent / 2)
    noise = np.fft.irfft(spectrum)
    noise *= _NOISE_LEVEL / np.sqrt(np.mean(noise**2, axis=1, keepdims=True))
    return np.clip(np.round(noise * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
