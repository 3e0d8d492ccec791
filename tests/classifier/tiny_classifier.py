"""A classifier and clips small enough for every test."""

import numpy as np

from poolformer_jax.classifier.config import AugmentConfig, ClassifierConfig, ClassifierTrainConfig

MODEL = ClassifierConfig(kind="small", num_classes=3)
TRAIN = ClassifierTrainConfig(num_epochs=3, batch_size=4, learning_rate=0.05, plateau_patience=0)
AUGMENT = AugmentConfig()


def make_batch(index, batch_size=4, *, with_noise=False):
    """Hissing tones whose pitch the label tells."""
    rng = np.random.default_rng(index)
    labels = rng.integers(0, 3, batch_size).astype(np.int32)
    pitch = 300 * 3.0 ** labels[:, None]
    tones = np.sin(2 * np.pi * pitch * np.arange(16_000) / 16_000)
    hiss = rng.normal(size=(2, batch_size, 16_000))
    batch = {"audio": (9000 * tones + 300 * hiss[0]).astype(np.int16), "labels": labels}
    return batch | ({"noise": (1000 * hiss[1]).astype(np.int16)} if with_noise else {})
