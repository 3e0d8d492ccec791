import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

from poolformer_jax.evals.samples.clip_sets import noise_set, real_set
from poolformer_jax.evals.samples.generated import GeneratedClips
from poolformer_jax.evals.samples.wav_folder import FolderReport
from poolformer_jax.evals.scores.accuracy import Accuracy, cached_accuracy
from poolformer_jax.evals.scores.classified import classify_clips
from poolformer_jax.evals.scores.likelihood_filter import likelihood_quantile_filter
from poolformer_jax.evals.scores.reference import (
    ReferenceStatistics,
    cached_reference,
    reference_key,
)
from poolformer_jax.evals.scores.scoring import (
    Scorer,
    Scores,
    check_classes,
    find_count_warnings,
    find_faults,
    find_part_warnings,
    score_samples,
)
from poolformer_jax.sampling.folder import make_row
from tests.classifier.random_classifier import saved_classifier
from tests.evals.scores.recordings import tones

CLASSES = tuple("0123456789")
CLASSIFIER = saved_classifier()
RIGHT = Accuracy(value=0.99, num_clips=100, clips="digits:test")
ABOUT = {
    "reference": {"name": "digits:train"},
    "classifier": {"kind": "small", "mel_padding": "reflect", "source": {}},
    "drawn_with": None,
}


def classify(clips):
    return classify_clips(CLASSIFIER, clips, batch_size=32)


def key_of(**changes):
    parts = {"classifier": "c", "front_end": "f", "manifest": "m", "split": "train", "num_cells": 8}
    return reference_key(**parts | changes)


def make_reference(folder, source, classify, **changes):
    key = key_of(**changes)
    clips = real_set(source, "train")
    return cached_reference(folder, clips, classify, key=key, num_cells=8)


@pytest.fixture(scope="module")
def train():
    return tones(90)


@pytest.fixture(scope="module")
def classified(train):
    return classify(real_set(train, "train"))


@pytest.fixture(scope="module")
def scorer(classified):
    reference = ReferenceStatistics.of(
        classified.features, classified.log_probs, key="train", num_cells=8
    )
    return Scorer(reference=reference, resamples=0)


def score(scorer, source):
    return scorer.score("set", "set", classify(real_set(source, "test")))


@pytest.fixture(scope="module")
def few(scorer):
    return score(scorer, tones(6))


def test_reference_against_itself(scorer, classified):
    metrics = scorer.score("set", "set", classified).metrics
    # The traces are sums of squares of float32 features; float64 leaves 1e-15 of them.
    scale = np.trace(scorer.reference.gaussian.covariance)
    assert metrics.fid.value < 1e-10 * scale
    assert metrics.ndb.value == 0
    assert metrics.num_clips == metrics.num_reference == 90
    assert metrics.fid.interval is None


def test_the_noisier_the_farther(scorer):
    fids = [
        score(scorer, tones(30, seed=1, noise=noise)).metrics.fid.value
        for noise in (0.01, 0.1, 0.5)
    ]
    assert fids == sorted(fids) and fids[-1] > 10 * fids[0]


def test_reference_is_computed_once_for_each_classifier_front_end_and_data(
    train, classified, tmp_path
):
    calls = []

    def counted(clips):
        calls.append(clips.name)
        return classified

    first = make_reference(tmp_path, train, counted)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    again = make_reference(tmp_path, train, counted)
    assert calls == ["real_train"] and path.stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.gaussian.scatter, first.gaussian.scatter)
    np.testing.assert_array_equal(again.cells.centroids, first.cells.centroids)
    make_reference(tmp_path, train, counted, classifier="another")
    make_reference(tmp_path, train, counted, front_end="another")
    make_reference(tmp_path, train, counted, split="test")
    make_reference(tmp_path, train, counted, manifest="another")
    assert len(calls) == len(list(tmp_path.iterdir())) == 5


def score_all(samples, scorer, classified, *, baselines=(), classify=classify):
    options = {"class_names": CLASSES, "about": ABOUT, "classify": classify}
    options |= {"baselines": baselines, "accuracy": RIGHT}
    return list(score_samples(samples, classified, scorer, **options))


def generated(clips, *, log_likelihoods=None, settings=None):
    rows = None
    if log_likelihoods is not None:
        rows = tuple(
            make_row(clip, seed=0, label=None, log_probs=np.array([value]))
            for clip, value in enumerate(log_likelihoods)
        )
    return GeneratedClips(
        folder=pathlib.Path("runs/x"), paths=(), settings=settings, rows=rows, clips=clips
    )


def test_filtered_row_is_of_the_clips_of_moderate_likelihood(scorer):
    source = tones(40, seed=2)
    log_likelihoods = np.random.default_rng(0).normal(size=40)
    clips = dataclasses.replace(real_set(source, "test"), name="samples", title="generated")
    samples = generated(clips, log_likelihoods=log_likelihoods, settings={})
    sets = score_all(samples, scorer, classify(clips))[0].sets
    assert [scored.name for scored in sets] == ["samples", "samples_filtered"]
    kept = likelihood_quantile_filter(log_likelihoods)
    assert len(kept) == 11  # int(0.95 * 20) - int(0.40 * 20)
    expected = score(scorer, [source[clip] for clip in kept])
    found = sets[1]
    assert found.title == "generated, filtered 0.40–0.95"
    assert found.clips.names == expected.clips.names
    assert found.clips.labels.tolist() == expected.clips.labels.tolist()
    for name, value in dataclasses.asdict(expected.metrics).items():
        if isinstance(value, dict):
            # Other batches, so the features differ in float32's last digits.
            assert getattr(found.metrics, name).value == pytest.approx(value["value"], rel=1e-3)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({}, None),
        ({"settings": {}}, "runs/x is not complete, so there is no row"),
        (
            {"settings": {}, "log_likelihoods": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]},
            "1 of 6 clips lie between",
        ),
    ],
    ids=["another generator", "interrupted", "too few"],
)
def test_without_enough_likelihoods_no_filtered_row(scorer, few, options, warning):
    clips = real_set(tones(6), "test")
    (scores,) = score_all(generated(clips, **options), scorer, few.clips)
    assert len(scores.sets) == 1
    assert len(scores.faults) == (1 if warning is None else 2)  # They are short, in any case.
    assert warning is None or warning in scores.faults[1]


def test_scores_come_again_after_each_baseline(scorer, few, classified):
    clips = dataclasses.replace(real_set(tones(6), "test"), name="samples")
    baselines = [noise_set(3), real_set(tones(3), "test")]
    known = {"noise": few.clips, "real_test": classified}
    found = score_all(
        generated(clips),
        scorer,
        few.clips,
        baselines=baselines,
        classify=lambda clips: known[clips.name],
    )
    names = [[scored.name for scored in scores.sets] for scores in found]
    assert names == [["samples"], ["samples", "noise"], ["samples", "noise", "real_test"]]
    last = found[-1]
    assert [scored.metrics.num_clips for scored in last.sets] == [6, 6, 90]
    assert last.warnings == [*find_count_warnings(last.sets), *last.faults]
    unknown = dataclasses.replace(last, accuracy=None)
    assert "accuracy on real clips is unknown" in unknown.warnings[0]


def test_accuracy_is_measured_once_and_kept(classified, tmp_path):
    calls = []

    def counted(clips):
        calls.append(clips.name)
        return classified

    clips = real_set(tones(90), "test")
    found = [
        cached_accuracy(tmp_path, clips, counted, key="k", name="digits:test") for _ in range(2)
    ]
    assert found[0] == found[1] and calls == ["real_test"]
    assert found[0] == Accuracy(value=classified.accuracy, num_clips=90, clips="digits:test")
    (tmp_path / "k.json").write_text("[]")
    with pytest.raises(ValueError, match=r"k\.json is damaged .*delete it"):
        cached_accuracy(tmp_path, clips, counted, key="k", name="digits:test")


def test_part_of_the_reference_is_told_and_can_be_left_out(train, classified, scorer):
    """Clips that are left out are scored against exactly the others."""
    kept = classified.take(np.arange(40, 90), classified.report)
    held = classified.take(np.arange(40), classified.report)
    part = scorer.score("real_train", "real, train", held, relation="part")
    (warning,) = find_part_warnings([part])
    assert "about 38% of what fresh clips" in warning  # (90 - 40) / (90 + 40)
    assert "--baselines=held_out_train" in warning
    left_out = scorer.score("held", "held", held, relation="left_out")
    assert find_part_warnings([left_out]) == []
    others = ReferenceStatistics.of(kept.features, kept.log_probs, key="others", num_cells=8)
    expected = Scorer(reference=others, resamples=0).score("held", "held", held).metrics
    found = left_out.metrics
    assert (found.num_clips, found.num_reference) == (40, 50)
    assert found.fid.value == pytest.approx(expected.fid.value, rel=1e-9)
    assert found.am_score.value == pytest.approx(expected.am_score.value, rel=1e-9)
    assert found.fid.value > part.metrics.fid.value


def test_warnings_count_and_name_what_is_odd():
    report = FolderReport(
        num_clips=6,
        silent=("a.wav", "b.wav", "c.wav", "d.wav"),
        non_finite=("e.wav",),
        resampled=2,
        padded=5,
        truncated=3,
    )
    silent, broken, short, long, converted = find_faults(report, "generated")
    assert silent.startswith("4 of 6") and silent.endswith("a.wav, b.wav, c.wav, ...")
    assert broken.startswith("1 of 6") and broken.endswith("e.wav")
    assert short.startswith("5 of 6") and "shorter than a second" in short
    assert long.startswith("3 of 6") and "first second" in long
    assert converted.startswith("2 of 6")
    assert find_faults(FolderReport(num_clips=6), "generated") == []


def test_each_set_of_few_clips_and_unequal_numbers_are_named(few):
    metrics = dataclasses.replace(few.metrics, num_clips=2_048, fid_is_biased=False)
    enough = dataclasses.replace(few, title="enough", metrics=metrics)
    other = dataclasses.replace(few, title="other")
    first, second, unequal = find_count_warnings([few, enough, other])
    assert first.startswith("FID is biased: set has 6 clips, fewer than 2,048")
    assert second.startswith("FID is biased: other has 6 clips, fewer than 2,048")
    assert "(set: 6; enough: 2,048; other: 6)" in unequal and "NDB looks better" in unequal
    assert len(find_count_warnings([few, other])) == 2
    assert find_count_warnings([enough, enough]) == []


def test_classes_must_be_the_data_sets():
    check_classes(["a", "b"], ("a", "b"), "digits")
    with pytest.raises(ValueError, match=r"classes \(b, a\) are not those of the data set 'digits"):
        check_classes(["b", "a"], ("a", "b"), "digits")
    with pytest.raises(ValueError, match="'beethoven' has no classes"):
        check_classes(["a", "b"], (), "beethoven")


def test_file_tells_scores_clips_and_classes_in_strict_json(scorer, tmp_path):
    scored = score(dataclasses.replace(scorer, resamples=4), tones(12, seed=3))
    infinite = dataclasses.replace(scored.metrics.modified_inception_score, value=math.inf)
    metrics = dataclasses.replace(scored.metrics, modified_inception_score=infinite)
    scores = Scores(
        samples=generated(real_set([], "test")),
        sets=[dataclasses.replace(scored, name="samples", metrics=metrics)],
        faults=["careful"],
        reference=scorer.reference,
        accuracy=Accuracy(value=0.1, num_clips=20, clips="digits:test"),
        class_names=CLASSES,
        about=ABOUT | {"seed": 0, "clips_per_second": None},
    )
    path = scores.write(tmp_path)
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["seed"] == 0 and content["warnings"] == scores.warnings
    assert scores.warnings[-1] == "careful"
    assert scores.warnings[0].startswith("the classifier is right on only 10.0% of 20 real clips (")
    assert content["classifier_accuracy"] == {"value": 0.1, "num_clips": 20, "clips": "digits:test"}
    assert content["as_published"] is False and content["not_as_published"] == scores.deviations
    (found,) = content["sets"]
    assert found["metrics"]["fid"]["value"] == scored.metrics.fid.value
    assert found["metrics"]["fid"]["interval"]["resamples"] == 4
    assert found["metrics"]["modified_inception_score"]["value"] is None
    assert found["clips"]["count"] == 12 and found["clips"]["padded"] == 12
    assert sum(found["predicted"].values()) == 12 and list(found["predicted"]) == list(CLASSES)
    assert [sum(row) for row in found["confusion"]] == [2, 2] + [1] * 8
    shares = [count / 12 for count in found["predicted"].values() if count]
    assert found["class_entropy"] == pytest.approx(-sum(p * math.log2(p) for p in shares))
    assert found["accuracy"] == sum(found["confusion"][k][k] for k in range(10)) / 12
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
