"""FSDD: the Free Spoken Digit Dataset."""

from __future__ import annotations

import numpy as np
import scipy.signal
from jaxtyping import Int16

from poolformer_jax.data.builders.archive import Archive
from poolformer_jax.data.builders.features import DIGIT_WORDS
from poolformer_jax.data.builders.recordings import Plan, Recording, Recordings
from poolformer_jax.data.datasets import SAMPLE_RATE
from poolformer_jax.files import plain

# Number of a take -> split.
_TAKES = {"test": range(5), "validation": range(5, 10), "train": range(10, 50)}


class Fsdd(Recordings):
    """FSDD: recordings of the words "zero" to "nine", 50 by each of six speakers.

    They are published at 8 kHz and upsampled to 16 kHz here. Takes 0 to 4 are the official test
    split; of the rest, takes 5 to 9 validate. Every speaker is in every split.

    Source: Z. Jackson et al., the Free Spoken Digit Dataset, version 1.0.10, CC-BY-SA-4.0
      (github.com/Jakobovski/free-spoken-digit-dataset).
    """

    name = "fsdd"
    TITLE = "the Free Spoken Digit Dataset"
    HOMEPAGE = "github.com/Jakobovski/free-spoken-digit-dataset"
    ARCHIVE_NAMES = (
        "free-spoken-digit-dataset*.tgz",
        "free-spoken-digit-dataset*.tar.gz",
        "free-spoken-digit-dataset*.zip",
    )
    CLIP_PATTERN = r"\d_[^\W_]+_\d+\.wav"
    LABELS = DIGIT_WORDS
    SOURCE_RATE = 8_000
    MAX_SECONDS = 10
    EXPECTED_CLIPS = {"train": 2_400, "validation": 300, "test": 300}

    def plan(self, archive: Archive) -> Plan:
        plan: dict[str, list[Recording]] = {"train": [], "validation": [], "test": []}
        for name in sorted(archive.clips):
            digit, speaker, take = name.removesuffix(".wav").split("_")
            clip = Recording(name=name, label=DIGIT_WORDS[int(digit)], speaker=speaker)
            # Names are anybody's: Python refuses to read a number of thousands of digits.
            number = int(take) if len(take) < 10 else -1
            split = next((s for s, takes in _TAKES.items() if number in takes), None)
            if split is None:
                raise ValueError(f"{archive.path} holds {plain(name)}: takes are numbered 0 to 49")
            plan[split].append(clip)
        return plan

    def resample(self, pcm: Int16[np.ndarray, " t"]) -> Int16[np.ndarray, " _"]:
        x = scipy.signal.resample_poly(pcm.astype(np.float64), SAMPLE_RATE // self.SOURCE_RATE, 1)
        return np.clip(np.rint(x), -(2**15), 2**15 - 1).astype(np.int16)
