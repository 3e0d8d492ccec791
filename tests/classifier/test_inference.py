import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.classifier.inference import log_mels, make_classification
from poolformer_jax.classifier.log_mel import log_mel
from poolformer_jax.classifier.network import ClassifierConfig, classify
from tests.classifier.random_classifier import random_classifier
from tests.layers.conftest import quick_compilation

__all__ = ["quick_compilation"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = ClassifierConfig(kind="small", num_classes=3)


def test_loss_and_confusion_are_those_of_a_loop_over_clips():
    params, stats = random_classifier(CONFIG)
    rng = np.random.default_rng(0)
    # More than one batch, and not whole ones.
    mels = rng.uniform(-80, 0, (150, 32, 32)).astype(np.float32)
    labels = rng.integers(0, 3, 150).astype(np.int32)
    result = make_classification(CONFIG)(params, stats, mels, labels)

    logits, _, _ = jax.jit(functools.partial(classify, CONFIG))(params, stats, mels)
    confusion, losses = [[0] * 3 for _ in range(3)], []
    for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        confusion[label][max(range(3), key=lambda k: row[k])] += 1
        losses.append(math.log(sum(math.exp(x - row[label]) for x in row)))
    assert result.confusion.tolist() == confusion
    # Products of other shapes sum in another order; the logits are of order 100.
    assert result.loss == pytest.approx(sum(losses) / 150, rel=1e-5)
    correct = sum(confusion[k][k] for k in range(3))
    assert result.summary() == {"accuracy": correct / 150, "loss": result.loss, "num_clips": 150}


def test_spectrograms_of_many_clips_are_those_of_each():
    audio = np.random.default_rng(0).integers(-9999, 9999, (130, 2000)).astype(np.int16)
    mels = log_mels(audio, padding="constant")
    expected = log_mel(jnp.asarray(audio[126:]), padding="constant")
    assert len(mels) == 130
    # The same sums, compiled for another size.
    np.testing.assert_allclose(mels[126:], expected, rtol=0, atol=2e-3)
