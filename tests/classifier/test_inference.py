import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from poolformer_jax import sharding
from poolformer_jax.aot.chips import chip_of, describe_topology
from poolformer_jax.aot.report import read_program
from poolformer_jax.classifier import inference
from poolformer_jax.classifier.clips import LabelledClips
from poolformer_jax.classifier.config import ClassifierConfig
from poolformer_jax.classifier.files import load_classifier
from poolformer_jax.classifier.inference import (
    Classification,
    classify_audio,
    classify_labelled,
    front_end_hash,
)
from poolformer_jax.classifier.log_mel import CLIP_LENGTH, log_mel, mel_filters
from poolformer_jax.classifier.network import classify
from poolformer_jax.experiment.pretrained import pretrained_classifier
from tests.classifier.random_classifier import random_classifier

CONFIG = ClassifierConfig(kind="small", num_classes=3, mel_padding="constant")
PARAMS, STATS = random_classifier(CONFIG)
AUDIO = np.random.default_rng(0).integers(-9999, 9999, (10, 16_000)).astype(np.int16)


@pytest.fixture(scope="module")
def expected():
    """Features and logits of all clips at once."""
    mels = log_mel(jnp.asarray(AUDIO), padding="constant")
    logits, features, _ = jax.jit(lambda mels: classify(CONFIG, PARAMS, STATS, mels))(mels)
    return features, np.asarray(logits, np.float64)


def parts(audio, size):
    return (audio[first : first + size] for first in range(0, len(audio), size))


@pytest.mark.parametrize("devices", [None, 1, 3])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_outputs_are_the_classifiers_whatever_the_batch_size_and_devices(expected, devices, dtype):
    audio = AUDIO if dtype is np.int16 else (AUDIO / 2**15).astype(np.float32)
    mesh = None if devices is None else sharding.make_mesh(devices=jax.devices()[:devices])
    seen = []
    found = classify_audio(
        CONFIG, PARAMS, STATS, parts(audio, 4), batch_size=4, mesh=mesh, on_progress=seen.append
    )
    # Sums of up to 1,152 float32 products in another order.
    np.testing.assert_allclose(found.features, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        found.log_probs, log_softmax(expected[1], axis=1), rtol=1e-4, atol=1e-4
    )
    assert seen == [4, 4, 2]
    assert found.labels is found.accuracy is found.loss is found.confusion() is None


def test_next_batch_is_read_while_the_devices_work():
    events = []

    def batches():
        for number in range(3):
            events.append(f"read {number}")
            yield AUDIO[:2]

    classify_audio(
        CONFIG,
        PARAMS,
        STATS,
        batches(),
        batch_size=2,
        on_progress=lambda num_clips: events.append("done"),
    )
    assert events == ["read 0", "read 1", "done", "read 2", "done", "done"]


def test_loss_accuracy_and_confusion_are_those_of_a_loop_over_clips(expected):
    labels = np.random.default_rng(1).integers(0, 3, 10).astype(np.int32)
    result = classify_labelled(CONFIG, PARAMS, STATS, LabelledClips(AUDIO, labels), batch_size=4)
    confusion, losses = [[0] * 3 for _ in range(3)], []
    for row, label in zip(expected[1], labels, strict=True):
        confusion[label][max(range(3), key=lambda k: row[k])] += 1
        losses.append(math.log(sum(math.exp(x - row[label]) for x in row)))
    assert result.confusion().tolist() == confusion
    # Products of other shapes sum in another order; the logits are of order 100.
    assert result.loss == pytest.approx(sum(losses) / 10, rel=1e-5)
    correct = sum(confusion[k][k] for k in range(3))
    assert result.summary() == {"accuracy": correct / 10, "loss": result.loss, "num_clips": 10}


def test_predictions_counts_confusion_and_entropies_by_loops():
    rng = np.random.default_rng(0)
    log_probs = log_softmax(3 * rng.normal(size=(40, 4)), axis=1).astype(np.float32)
    features = np.zeros((40, 3), np.float32)
    found = Classification(features=features, log_probs=log_probs, labels=rng.integers(0, 4, 40))
    confusion, counts, right = np.zeros((4, 4), int), np.zeros(4, int), 0
    for log_p, label, entropy in zip(log_probs, found.labels, found.entropies, strict=True):
        likeliest = max(range(4), key=lambda k: log_p[k])
        confusion[label, likeliest] += 1
        counts[likeliest] += 1
        right += likeliest == label
        # Four float32 terms of at most 1.
        assert entropy == pytest.approx(-sum(np.exp(p) * p for p in log_p.tolist()), abs=1e-5)
    np.testing.assert_array_equal(found.confusion(), confusion)
    np.testing.assert_array_equal(found.counts(), counts)
    bits = -sum(count / 40 * math.log2(count / 40) for count in counts if count)
    assert found.class_entropy == pytest.approx(bits)
    collapsed = Classification(features=features, log_probs=np.tile(log_probs[:1], (40, 1)))
    assert str(collapsed.class_entropy) == "0.0"
    assert found.accuracy == right / 40


def test_front_ends_differ_by_their_padding():
    other = dataclasses.replace(CONFIG, mel_padding="reflect")
    assert front_end_hash(CONFIG) == front_end_hash(dataclasses.replace(CONFIG, num_classes=4))
    assert front_end_hash(CONFIG) != front_end_hash(other)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("batch_norm.EPSILON", 1e-3),
        ("log_mel.HOP", 256),
        ("log_mel.mel_filters", lambda: 2 * mel_filters()),
        ("inference.FEATURE_VERSION", 0),
    ],
)
def test_front_ends_differ_by_what_decides_features(monkeypatch, place, value):
    before = front_end_hash(CONFIG)
    assert front_end_hash(CONFIG) == before
    monkeypatch.setattr(f"poolformer_jax.classifier.{place}", value)
    assert front_end_hash(CONFIG) != before


def test_front_end_of_kept_references_has_the_same_hash(monkeypatch):
    """Written down when references were first kept; the filters' last bits are the machine's."""
    monkeypatch.setattr("poolformer_jax.classifier.log_mel.mel_filters", lambda: np.ones((2, 3)))
    assert front_end_hash(CONFIG) == (
        "16391766cd3c2c4f8f7bb7a5d25a63504ac1800e7e3c527793ed84fb92f111b9"
    )


@pytest.mark.tpu_backend
def test_the_classifier_that_comes_with_the_package_compiles_for_v5e(tpu_compiler):
    saved = load_classifier(pretrained_classifier("digits"))
    device = jax.sharding.SingleDeviceSharding(describe_topology("v5e:1x1")[0])
    audio = np.zeros((64, CLIP_LENGTH), np.int16)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        (saved.params, saved.stats, audio),
    )
    compiled = inference._classify.lower(saved.config, None, *arguments).compile()
    report = read_program(compiled, chip_of("v5e:1x1"))
    print(report)
    # Measured: 88 MB, 18 of temporaries; the rest is for other compilers.
    assert report.peak_bytes <= 1.1e8 and report.temp_bytes <= 2.5e7
