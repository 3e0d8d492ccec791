"""The page shows the scores, the classes and the clips, and refers to nothing outside itself."""

import base64
import dataclasses
import html
import re

import numpy as np
import pytest
from scipy.io import wavfile

from poolformer_jax.evals.samples.clip_sets import real_set
from poolformer_jax.evals.samples.generated import open_generated
from poolformer_jax.evals.scores.accuracy import Accuracy
from poolformer_jax.evals.scores.classified import classify_clips
from poolformer_jax.evals.scores.published import PUBLISHED_SC09
from poolformer_jax.evals.scores.reference import ReferenceStatistics
from poolformer_jax.evals.scores.scoring import Scorer, Scores, score_samples
from poolformer_jax.evals.scores.table import score_row
from poolformer_jax.pages.scores import choose_clips, write_metrics_page
from tests.classifier.random_classifier import saved_classifier
from tests.evals.scores.recordings import draw, tones

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ABOUT = {
    "samples": "runs/x",
    "drawn_with": None,
    "reference": {"name": "digits:train", "partial": False, "key": "abcdef"},
    "classifier": {"kind": "small", "mel_padding": "reflect", "source": {"trained_on": "digits"}},
}
RIGHT = Accuracy(value=0.9875, num_clips=80, clips="digits:test")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Four labelled clips, of which the later are the likelier, beside ten recordings."""
    classifier = saved_classifier(class_names=CLASSES)

    def classify(clips):
        return classify_clips(classifier, clips, batch_size=10)

    train = classify(real_set(tones(20), "train"))
    reference = ReferenceStatistics.of(train.features, train.log_probs, key="abc", num_cells=4)
    folder = draw(tmp_path_factory.mktemp("drawn") / "clips", 4, label_of=lambda clip: clip)
    samples = open_generated(folder, num_classes=10)
    scorer = Scorer(reference=reference, resamples=2)
    *_, scores = score_samples(
        samples,
        classify(samples.clips),
        scorer,
        accuracy=RIGHT,
        class_names=CLASSES,
        about=ABOUT,
        baselines=[real_set(tones(10, seed=1), "test")],
        classify=classify,
    )
    return dataclasses.replace(scores, faults=[*scores.faults, "mind the <gap>"])


@pytest.fixture(scope="module")
def page(content, tmp_path_factory):
    path = write_metrics_page(tmp_path_factory.mktemp("page"), content)
    return path.read_text(encoding="utf-8")


def test_page_shows_scores_warnings_and_facts(content, page):
    assert "<h1>Generated clips against digits:train</h1>" in page
    for scored in content.sets:
        title, *cells = score_row(scored)
        row = f"<th scope='row'>{title}</th>" + "".join(f"<td>{cell}</td>" for cell in cells)
        assert row in page
    assert "<strong>98.8%</strong>" in page
    assert "The classifier is right on 98.8% of 80 real clips (digits:test)." in page
    for warning in ("FID is biased: generated has 4 clips", "mind the &lt;gap&gt;"):
        assert warning in page
    counts = content.sets[0].clips.counts()
    assert f"<strong>{np.count_nonzero(counts)} of 10</strong>" in page
    missing = [name for name, count in zip(CLASSES, counts, strict=True) if not count]
    assert f"Never predicted: {', '.join(missing)}." in page
    for accuracy in (content.sets[0].clips.accuracy, content.sets[-1].clips.accuracy):
        assert f"{accuracy:.1%} as labelled" in page
    assert "<th scope='row'>Reference key</th><td>abcdef</td>" in page


def test_likeliest_middle_and_least_likely_clips_can_be_heard(content, page):
    player = r"<audio[^>]*aria-label='([^']*)' src='data:audio/wav;base64,([^']+)'"
    sounds = re.findall(player, page)
    # One of each: later clips are likelier.
    assert [name for name, _ in sounds] == ["sample_00003", "sample_00002", "sample_00000"]
    for (_, sound), clip in zip(sounds, (3, 2, 0), strict=True):
        assert base64.b64decode(sound) == content.samples.paths[clip].read_bytes()
    kinds = ("Most likely", "In the middle", "Least likely")
    order = [page.index(f"{kind}: 1 of 4") for kind in kinds]
    assert order == sorted(order)


def test_page_refers_to_nothing_outside_itself(page):
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert "http" not in text and "//" not in text
    assert not re.search(r"<(script|link|iframe)|@import|url\(", text)


def test_published_scores_stand_beside_only_what_they_compare_with(
    content, page, tmp_path, monkeypatch
):
    assert "cannot be compared" in page and "<div class='muted'>" in page
    for deviation in content.deviations:
        assert html.escape(deviation) in page
    monkeypatch.setattr(Scores, "deviations", property(lambda scores: []))
    text = write_metrics_page(tmp_path, content).read_text(encoding="utf-8")
    assert "<div class='muted'>" not in text and "made as these were, of 4 generated" in text
    for row in PUBLISHED_SC09:
        assert html.escape(row[0]) in text


def test_clips_of_any_format_are_ordered_by_the_classifiers_certainty(content, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        stereo = rng.uniform(-0.5, 0.5, (9_000, 2)).astype(np.float32)
        wavfile.write(tmp_path / f"{name}.wav", 8_000, stereo)
    samples = open_generated(tmp_path, num_classes=10, resample=True)
    classifier = saved_classifier(class_names=CLASSES)
    clips = classify_clips(classifier, samples.clips, batch_size=10)
    sets = [Scorer(reference=content.reference, resamples=0).score("samples", "generated", clips)]
    changed = dataclasses.replace(content, samples=samples, sets=sets)
    text = write_metrics_page(tmp_path, changed).read_text(encoding="utf-8")
    order = np.argsort(clips.entropies)
    found = re.findall(r"aria-label='([abc])'", text)
    assert found == ["abc"[i] for i in order]
    assert text.index("Surest") < text.index("Least sure")
    assert "drawn without labels" in text


def test_groups_hold_the_extremes_and_the_middle():
    goodness = np.random.default_rng(0).permutation(21).astype(np.float64)
    best, middle, worst = choose_clips(goodness)
    assert [goodness[i] for i in best] == [20, 19, 18, 17]
    assert [goodness[i] for i in middle] == [12, 11, 10, 9]
    assert [goodness[i] for i in worst] == [3, 2, 1, 0]
