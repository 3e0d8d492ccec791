"""What may stand beside the published scores of SC09, and what is named that keeps it from that."""

import pytest

from poolformer_jax.evals.samples.wav_folder import FolderReport
from poolformer_jax.evals.scores import published
from poolformer_jax.evals.scores.accuracy import Accuracy
from poolformer_jax.evals.scores.published import (
    PUBLISHED_HEADER,
    PUBLISHED_SC09,
    find_deviations,
)
from poolformer_jax.evals.scores.table import HEADER

HASH = "ab" * 32
# As launch.sample and launch.import_classifier note them.
ABOUT = {
    "reference": {"name": "sc09:train", "data": "sc09", "split": "train", "partial": False},
    "classifier": {
        "kind": "resnext29_8x64d",
        "mel_padding": "reflect",
        "source": {"imported_from": "resnext.pth", "sha256": HASH},
    },
    "drawn_with": {
        "step": 486_500,
        "weights": "ema",
        "seed": 3,
        "length": 16_000,
        "sample_rate": 16_000,
        "codec": "mu_law",
        "label": None,
        "temperature": 1.0,
        "top_k": None,
        "top_p": 1.0,
        "guidance": 1.0,
        "prompt_length": 0,
        "prompt_sha256": None,
    },
}
RIGHT = Accuracy(value=0.98, num_clips=4_107, clips="sc09:test")
FILTERED = {"samples": 10_240, "samples_filtered": 2_816}


@pytest.fixture
def known_hash(monkeypatch):
    monkeypatch.setattr(published, "PUBLISHED_CLASSIFIER_SHA256", HASH)


def deviations(about=ABOUT, *, num_clips=FILTERED, accuracy=RIGHT, **odd):
    report = FolderReport(num_clips=num_clips["samples"], **odd)
    return find_deviations(about, num_clips=num_clips, report=report, accuracy=accuracy)


def test_all_as_published(known_hash):
    assert deviations() == []
    assert deviations(num_clips={"samples": 2_048, "samples_filtered": 563}) == []
    assert deviations(num_clips={"samples": 2_048}) == []


def test_without_the_published_hash_nothing_counts():
    assert published.PUBLISHED_CLASSIFIER_SHA256 is None
    (sentence,) = deviations()
    assert "SHA-256 of the published checkpoint is not known to this version" in sentence


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        (
            "reference",
            {"name": "sc09:test", "split": "test"},
            "the reference is sc09:test, not sc09:train",
        ),
        ("reference", {"name": "real", "data": None}, "the reference is real, not sc09:train"),
        ("reference", {"partial": True}, "a subset of sc09:train"),
        ("classifier", {"kind": "small"}, "classifier is not the published one"),
        ("classifier", {"source": {"trained_on": "sc09"}}, "classifier is not the published one"),
        (
            "classifier",
            {"source": {"imported_from": "resnext.pth", "sha256": "cd" * 32}},
            "imported from another file than the published checkpoint",
        ),
        ("classifier", {"mel_padding": "constant"}, "padded by constant, not by reflect"),
        ("drawn_with", {"temperature": 0.5}, "drawn with temperature 0.5, not 1.0"),
        ("drawn_with", {"top_k": 5}, "drawn with top_k 5, not None"),
        ("drawn_with", {"top_p": 0.9}, "drawn with top_p 0.9, not 1.0"),
        ("drawn_with", {"guidance": 2.0}, "drawn with guidance 2.0, not 1.0"),
        ("drawn_with", {"label": "cycle"}, "drawn with label cycle, not None"),
        ("drawn_with", {"prompt_length": 800}, "drawn with prompt_length 800, not 0"),
        ("drawn_with", {"length": 8_000}, "drawn with length 8000, not 16000"),
        ("drawn_with", {"weights": "raw"}, "drawn with weights raw, not ema"),
    ],
)
def test_each_deviation_is_named(known_hash, part, change, sentence):
    (found,) = deviations(ABOUT | {part: ABOUT[part] | change})
    assert sentence in found


def test_what_is_not_known_is_a_deviation(known_hash):
    (found,) = deviations(ABOUT | {"drawn_with": None})
    assert "nothing tells how the clips were drawn" in found
    assert len(deviations(ABOUT | {"drawn_with": {"seed": 0}})) == 9
    (found,) = deviations(accuracy=None)
    assert "accuracy on real clips was not measured" in found


def test_clips_and_classifier_have_to_be_as_published(known_hash):
    (found,) = deviations(accuracy=Accuracy(value=0.1, num_clips=20, clips="sc09:test"))
    assert "right on 10.0% of the real test clips only" in found
    (found,) = deviations(padded=3, truncated=2)
    assert found.startswith("5 clips were not of one second")
    (found,) = deviations(num_clips={"samples": 1_000})
    assert "the clips are 1,000, not 10,240 (or 2,048" in found
    (found,) = deviations(num_clips={"samples": 10_240})
    assert "no row is of the clips that the filter by likelihood leaves" in found


def test_published_rows_are_by_fid_under_the_headings_of_ones_own():
    assert set(PUBLISHED_HEADER[4:]) < set(HEADER)
    assert {len(row) for row in PUBLISHED_SC09} == {len(PUBLISHED_HEADER)}
    fids = [float(row[PUBLISHED_HEADER.index("FID ↓")]) for row in PUBLISHED_SC09]
    assert fids == sorted(fids)


def test_published_rows_say_which_clips_were_scored():
    scored = {row[0]: row[PUBLISHED_HEADER.index("clips scored")] for row in PUBLISHED_SC09}
    filtered = {name for name, clips in scored.items() if clips.startswith("2,816 of 10,240")}
    assert filtered == {
        "SaShiMi, U-Net",
        "SaShiMi, autoregressive",
        "WaveNet-1024",
        "SampleRNN",
    }
    assert scored["DiffWave"] == scored["DiffWave + SaShiMi"] == "2,048, all"
    sashimi = {row[1:4:2] + row[4:] for row in PUBLISHED_SC09 if row[0].startswith("SaShiMi,")}
    assert sashimi == {
        ("6.8M", "1.873", "1.99", "5.13", "42.57", "0.74"),
        ("4.1M", "1.891", "1.99", "4.12", "24.57", "0.90"),
    }
