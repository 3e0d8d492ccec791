"""A classifier and spectrograms small enough for every test."""

import numpy as np

from poolformer_jax.classifier.config import AugmentConfig, ClassifierTrainConfig
from poolformer_jax.classifier.network import ClassifierConfig

MODEL = ClassifierConfig(kind="small", num_classes=3)
TRAIN = ClassifierTrainConfig(num_epochs=3, batch_size=4, learning_rate=0.05, plateau_patience=0)
AUGMENT = AugmentConfig()


def make_batch(index, batch_size=4):
    """Spectrograms with a loud band, which the label tells."""
    rng = np.random.default_rng(index)
    labels = rng.integers(0, 3, batch_size).astype(np.int32)
    mels = rng.uniform(-80, -60, (batch_size, 32, 32)).astype(np.float32)
    mels[np.arange(batch_size), 8 * labels] = 0.0
    return {"mels": mels, "labels": labels}


def make_audio_batch(index, batch_size=4):
    """Noise of three loudnesses, and noise to add."""
    rng = np.random.default_rng(index)
    labels = rng.integers(0, 3, batch_size).astype(np.int32)
    audio = rng.normal(0, 1000 * (1 + labels[:, None]), (batch_size, 16_000)).astype(np.int16)
    noise = rng.normal(0, 1000, (batch_size, 16_000)).astype(np.int16)
    return {"audio": audio, "noise": noise, "labels": labels}
