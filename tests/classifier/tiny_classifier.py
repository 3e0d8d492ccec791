"""A classifier and clips small enough for every test."""

import numpy as np

from poolformer_jax.classifier.clips import LabelledClips
from poolformer_jax.classifier.config import AugmentConfig, ClassifierConfig
from poolformer_jax.classifier.objective import ClassifierObjective
from poolformer_jax.training.config import TrainConfig

MODEL = ClassifierConfig(kind="small", num_classes=3)
TRAIN = TrainConfig(
    num_steps=6,
    batch_size=4,
    optimizer="sgd",
    learning_rate=0.05,
    warmup_steps=0,
    weight_decay=1e-2,
    clip_norm=None,
    skip_norm=None,
    ema_decay=0.0,
    log_every=1,
    eval_every=2,
    checkpoint_every=2,
)
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


def make_objective(**options):
    """Evaluates on ten clips."""
    return ClassifierObjective(MODEL, AUGMENT, LabelledClips(**make_batch(99, 10)), 8, **options)
