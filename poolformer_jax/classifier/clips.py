"""Clips and their labels in memory, to train a classifier on: balanced batches, noise."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int16, Int32

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
    clip's maximum. So generated clips, however loud, need no other treatment.

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


def training_batches(
    clips: LabelledClips,
    *,
    batch_size: int,
    seed: int,
    start_example: int = 0,
    noise: Int16[np.ndarray, "n 16000"] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches for ever: `audio`, `labels`, and `noise` if there is some.

    Clips and noise are drawn with replacement, epoch by epoch: every class that is there comes
    equally often on average, and every clip of a class. An epoch has as many draws as there are
    clips, and as many more as its last batch lacks. The draws follow from the seed and the epoch.

    Args:
      clips: All of the split.
      batch_size: Clips in a batch.
      seed: Of the run.
      start_example: Clips drawn so far, of which a run needs nothing else to go on.
      noise: To draw from, one for each clip.
    """
    weights = 1.0 / np.bincount(clips.labels)[clips.labels]
    num_batches = -(-len(clips) // batch_size)
    first_epoch, skipped = divmod(start_example // batch_size, num_batches)
    for epoch in itertools.count(first_epoch):
        rng = np.random.default_rng((seed, epoch))
        draws = rng.choice(len(clips), num_batches * batch_size, p=weights / weights.sum())
        for index, rows in enumerate(draws.reshape(num_batches, batch_size)):
            others = rng.integers(len(noise), size=batch_size) if noise is not None else None
            if epoch == first_epoch and index < skipped:
                continue
            batch = {"audio": clips.audio[rows], "labels": clips.labels[rows]}
            yield batch if noise is None else batch | {"noise": noise[others]}


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
