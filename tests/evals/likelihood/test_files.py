import csv
import dataclasses
import json

import numpy as np
import pytest

from poolformer_jax.data.config import DataConfig
from poolformer_jax.evals.bootstrap import bootstrap_ratio
from poolformer_jax.evals.likelihood.evaluator import Likelihood
from poolformer_jax.evals.likelihood.files import name_variant, write_likelihood

SPEECH = [
    {"name": f"{i}, clip.wav".encode(), "label": i, "speaker": b"Zo\xc3\xab"} for i in range(3)
]
LIKELIHOOD = Likelihood(
    clip_indices=np.array([0, 2]),
    clip_bits=np.array([5.0, 4.0]),
    clip_samples=np.array([2, 1]),
    position_bits=np.array([7.0, 2.0]),
    position_clips=np.array([2, 1]),
)


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_files_say_what_was_measured(tmp_path):
    result = write_likelihood(tmp_path, "test", SPEECH, LIKELIHOOD, about={"step": 7})
    assert read_table(tmp_path / "likelihood_test.csv") == [
        ["name", "label", "speaker", "num_samples", "bits_per_sample"],
        ["0, clip.wav", "0", "Zoë", "2", "2.5"],
        ["2, clip.wav", "2", "Zoë", "1", "4.0"],
    ]
    assert json.loads((tmp_path / "likelihood_test.json").read_text()) == result
    interval = bootstrap_ratio(LIKELIHOOD.clip_bits, LIKELIHOOD.clip_samples)
    assert result == {
        "split": "test",
        "step": 7,
        "bits_per_sample": 3.0,
        "num_clips": 2,
        "num_samples": 3,
        "confidence_interval": dataclasses.asdict(interval),
        "curve": {"edges": [0, 1, 2], "bits_per_sample": [3.5, 2.0], "num_samples": [2, 1]},
    }
    assert {path.name for path in tmp_path.iterdir()} == {
        "likelihood_test.csv",
        "likelihood_test.json",
    }


@pytest.mark.parametrize(
    ("changes", "checkpoint", "variant"),
    [
        ({}, {}, ""),
        ({"data_dir": "/elsewhere", "seed": 3, "train_len": 800}, {}, ""),
        ({"seq_len": 960_000}, {"step": 400, "weights": "raw"}, "_raw_step400_60s"),
        ({"eval_clips": 200}, {}, "_200clips"),
        ({"seq_len": 16_001}, {}, "_1.0000625s"),
        ({"name": "digits_tiny", "build_seed": 2}, {}, "_digits_tiny_build2"),
        (
            {"partial": True, "codec": "linear", "normalize": False},
            {},
            "_partial_linear_unnormalized",
        ),
    ],
)
def test_names_say_what_differs_from_the_runs_own_evaluation(changes, checkpoint, variant):
    own = DataConfig(name="sc09")
    assert name_variant(own, dataclasses.replace(own, **changes), **checkpoint) == variant


def test_another_evaluation_leaves_the_runs_own(tmp_path):
    write_likelihood(tmp_path, "test", SPEECH, LIKELIHOOD, about={"step": 7})
    own = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_likelihood(tmp_path, "test", SPEECH, LIKELIHOOD, variant="_raw", about={"step": 8})
    for name, content in own.items():
        assert (tmp_path / name).read_bytes() == content
    assert json.loads((tmp_path / "likelihood_test_raw.json").read_text())["step"] == 8
    assert len(read_table(tmp_path / "likelihood_test_raw.csv")) == 3


def test_music_has_neither_label_nor_speaker(tmp_path):
    music = [{"name": f"{i}.wav"} for i in range(3)]
    write_likelihood(tmp_path, "validation", music, LIKELIHOOD, about={})
    table = read_table(tmp_path / "likelihood_validation.csv")
    assert table[:2] == [["name", "num_samples", "bits_per_sample"], ["0.wav", "2", "2.5"]]


@pytest.mark.parametrize("bits", [np.nan, np.inf])
def test_bits_that_are_not_finite_are_an_error(tmp_path, bits):
    likelihood = dataclasses.replace(LIKELIHOOD, clip_bits=np.array([5.0, bits]))
    with pytest.raises(FloatingPointError, match=r"clip 2, clip\.wav are not finite"):
        write_likelihood(tmp_path, "test", SPEECH, likelihood, about={})
    assert not list(tmp_path.iterdir())
