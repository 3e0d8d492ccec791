"""What a data set stores for each clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from poolformer_jax.data.datasets import SAMPLE_RATE

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def clip_features(*, labels: Sequence[str] = ()) -> tfds.features.FeaturesDict:
    """Features of a clip: its samples and name, and for speech what is said and by whom.

    Args:
      labels: Names of the classes; without any, clips have neither label nor speaker.
    """
    # As bytes: the default would store every sample as a variable-length 64-bit number.
    audio = tfds.features.Tensor(
        shape=(None,),
        dtype=np.int16,
        encoding=tfds.features.Encoding.BYTES,
        doc=f"Samples at {SAMPLE_RATE} Hz, 16 bit, not padded.",
    )
    features = {"audio": audio, "name": tfds.features.Text(doc="Unique in the data set.")}
    if labels:
        features["label"] = tfds.features.ClassLabel(names=[*labels])
        features["speaker"] = tfds.features.Text(doc="Who speaks.")
    return tfds.features.FeaturesDict(features)
