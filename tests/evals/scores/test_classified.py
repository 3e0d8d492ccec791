import dataclasses

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

from poolformer_jax.classifier.log_mel import log_mel, mel_filters
from poolformer_jax.classifier.network import ClassifierConfig, classify
from poolformer_jax.evals.samples.clip_sets import noise_set, real_set
from poolformer_jax.evals.samples.wav_folder import FolderReport
from poolformer_jax.evals.scores.classified import ClassifiedClips, classify_clips, front_end_hash
from tests.classifier.random_classifier import saved_classifier
from tests.evals.scores.recordings import tones


def test_outputs_are_the_classifiers_whatever_the_batch_size():
    classifier, source = saved_classifier(), tones(7)
    seen = []
    found = classify_clips(
        classifier, real_set(source, "test"), batch_size=4, on_progress=seen.append
    )
    audio = np.zeros((7, 16_000), np.float32)
    for row, example in zip(audio, source, strict=True):
        row[: len(example["audio"])] = example["audio"] / 2**15
    logits, features, _ = jax.jit(
        lambda clips: classify(
            classifier.config, classifier.params, classifier.stats, log_mel(clips)
        )
    )(audio)
    # Sums of up to 1,152 float32 products in another order.
    np.testing.assert_allclose(found.features, features, rtol=1e-4, atol=1e-4)
    expected = log_softmax(np.asarray(logits, np.float64), axis=1)
    np.testing.assert_allclose(found.log_probs, expected, rtol=1e-4, atol=1e-4)
    assert found.names == tuple(f"tone/{i}" for i in range(7))
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert seen == [4, 3] and found.report.num_clips == 7


def test_noise_has_no_labels():
    found = classify_clips(saved_classifier(), noise_set(3), batch_size=4)
    assert len(found.features) == 3
    assert found.labels is None and found.confusion() is None and found.accuracy is None


def make_clips(n=40, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(3 * rng.normal(size=(n, classes)), axis=1).astype(np.float32)
    return ClassifiedClips(
        names=tuple(f"clip {i}" for i in range(n)),
        features=rng.normal(size=(n, 3)).astype(np.float32),
        log_probs=log_probs,
        report=FolderReport(num_clips=n),
        labels=rng.integers(0, classes, n),
    )


def test_predictions_confusion_and_entropies_by_loops():
    clips = make_clips()
    confusion, counts, right = np.zeros((4, 4), int), np.zeros(4, int), 0
    for log_p, label, entropy in zip(clips.log_probs, clips.labels, clips.entropies, strict=True):
        likeliest = max(range(4), key=lambda k: log_p[k])
        confusion[label, likeliest] += 1
        counts[likeliest] += 1
        right += likeliest == label
        # Four float32 terms of at most 1.
        assert entropy == pytest.approx(-sum(np.exp(p) * p for p in log_p.tolist()), abs=1e-5)
    np.testing.assert_array_equal(clips.confusion(), confusion)
    np.testing.assert_array_equal(clips.counts(), counts)
    assert clips.accuracy == right / 40


def test_some_of_the_clips():
    clips = make_clips()
    some = clips.take(np.array([7, 2]), FolderReport(num_clips=2))
    assert some.names == ("clip 7", "clip 2")
    for name in ("features", "log_probs", "labels"):
        np.testing.assert_array_equal(getattr(some, name), getattr(clips, name)[[7, 2]])


def test_front_ends_differ_by_their_padding():
    config = ClassifierConfig(kind="small")
    other = dataclasses.replace(config, mel_padding="constant")
    assert front_end_hash(config) == front_end_hash(dataclasses.replace(config, num_classes=3))
    assert front_end_hash(config) != front_end_hash(other)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("layers.batch_norm.EPSILON", 1e-3),
        ("ops.log_mel.HOP", 256),
        ("ops.log_mel.mel_filters", lambda: 2 * mel_filters()),
        ("evals.classify_clips.FEATURE_VERSION", 0),
    ],
)
def test_front_ends_differ_by_what_decides_features(monkeypatch, place, value):
    config = ClassifierConfig(kind="small")
    before = front_end_hash(config)
    assert front_end_hash(config) == before
    monkeypatch.setattr(f"poolformer_jax.{place}", value)
    assert front_end_hash(config) != before
