import numpy as np

from poolformer_jax.classifier.inference import classify_audio
from poolformer_jax.evals.samples.clip_sets import noise_set, real_set
from poolformer_jax.evals.samples.wav_folder import FolderReport
from poolformer_jax.evals.scores.classified import classify_clips
from tests.classifier.random_classifier import saved_classifier
from tests.evals.scores.recordings import tones

CLASSIFIER = saved_classifier()


def test_clips_of_a_set_keep_names_labels_and_report():
    source, seen = tones(7), []
    found = classify_clips(
        CLASSIFIER, real_set(source, "test"), batch_size=4, on_progress=seen.append
    )
    audio = np.zeros((7, 16_000), np.float32)
    for row, example in zip(audio, source, strict=True):
        row[: len(example["audio"])] = example["audio"] / 2**15
    expected = classify_audio(
        CLASSIFIER.config, CLASSIFIER.params, CLASSIFIER.stats, [audio], batch_size=7
    )
    # Sums of up to 1,152 float32 products in another order.
    for name in ("features", "log_probs"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4
        )
    assert found.names == tuple(f"tone/{i}" for i in range(7))
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert seen == [4, 3] and found.report.num_clips == found.report.padded == 7

    some = found.take(np.array([6, 2]), FolderReport(num_clips=2))
    assert some.names == ("tone/6", "tone/2") and some.report.num_clips == 2
    for name in ("features", "log_probs", "labels"):
        np.testing.assert_array_equal(getattr(some, name), getattr(found, name)[[6, 2]])


def test_noise_has_no_labels():
    found = classify_clips(CLASSIFIER, noise_set(3), batch_size=4)
    assert len(found.features) == 3
    assert found.labels is None and found.confusion() is None and found.accuracy is None
    assert found.take(np.array([1]), found.report).labels is None
