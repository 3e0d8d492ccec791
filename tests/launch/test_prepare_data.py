"""From a published archive to training, by the two commands that the configurations name."""

import json
import os
import re

import pytest

from tests.data.builders import published
from tests.launch.processes import TINY_MODEL, call, mistake

SHORT = [
    "--config.data.seq_len=400",
    "--config.train.num_steps=2",
    "--config.train.batch_size=8",
    "--config.train.eval_batch_size=8",
]


def train_flags(config, tmp_path, *arguments):
    return [
        f"--config=configs/{config}.py",
        f"--workdir={tmp_path / 'run'}",
        f"--data_dir={tmp_path / 'data'}",
        *TINY_MODEL,
        *SHORT,
        *arguments,
    ]


def validation_bits(tmp_path):
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [
        (r["step"], r["num_clips"], r["num_samples"]) for r in rows if r["kind"] == "validation"
    ]


@pytest.mark.slow
def test_subset_of_sc09_is_prepared_and_trained_on(tmp_path, capsys):
    published.write_zip(tmp_path / "sc09.zip", published.sc09_files())
    flags = ["--dataset=sc09", f"--manual_dir={tmp_path}", f"--data_dir={tmp_path / 'data'}"]
    message = mistake("prepare_data", *flags)
    assert re.match(r"error: .*sc09.zip has 40 clips of the train split, expected 31,158", message)

    call("prepare_data", *flags, "--allow_partial")
    out = capsys.readouterr().out
    assert "warning: " in out and "preparing a subset" in out
    assert "train: 40 clips, 0 s of audio, 0.01 to 0.01 s each, 2 speakers, 20 clips of each" in out
    assert "--config=sc09 " in out and "--config.data.partial=True" in out

    message = mistake("train", *train_flags("sc09", tmp_path))
    assert message.startswith("error: the data set 'sc09' is not ready")
    assert "launch.prepare_data --dataset=sc09 --manual_dir=FOLDER_OF_THE_ARCHIVE --data" in message
    assert "a subset is there" in message
    call("train", *train_flags("sc09", tmp_path, "--config.data.partial=True"))
    assert "40 training and 20 validation clips" in capsys.readouterr().out
    assert validation_bits(tmp_path) == [(0, 20, 20 * 200), (2, 20, 20 * 200)]


@pytest.mark.nightly
def test_music_is_prepared_and_trained_on_in_crops(tmp_path, capsys):
    archive = published.write_zip(tmp_path / "youtubemix.zip", published.youtubemix_files())
    flags = ["--dataset=youtubemix", f"--manual_dir={archive}", f"--data_dir={tmp_path / 'data'}"]
    call("prepare_data", *flags)
    out = capsys.readouterr().out
    assert "validation: 14 clips" in out and "speakers" not in out
    call("train", *train_flags("youtubemix_crops", tmp_path, "--config.data.train_len=40"))
    assert "212 training and 14 validation clips" in capsys.readouterr().out
    assert validation_bits(tmp_path) == [(0, 14, 14 * 200), (2, 14, 14 * 200)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=sc10"], r"sc10.*digits.*youtubemix"),
        ([], "--dataset"),
        (["--dataset=fsdd"], "name the folder that holds free-spoken-digit-dataset"),
        (["--dataset=fsdd", "--manual_dir=/nowhere"], "manual_dir '/nowhere' does not exist"),
        (["--dataset=digits", "--allow_partial"], "'digits' is always whole"),
        (
            ["--dataset=digits", "--manual_dir=/nowhere"],
            "'digits' is synthesised, not built from an archive; leave --manual_dir and",
        ),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, flags, message):
    assert re.search(message, mistake("prepare_data", f"--data_dir={tmp_path}", *flags))


@pytest.mark.nightly
def test_recorded_digits_are_prepared_whole_and_trained_on(tmp_path, capsys):
    """The real archive, if POOLFORMER_FSDD_ARCHIVE names it."""
    if "POOLFORMER_FSDD_ARCHIVE" not in os.environ:
        pytest.skip("POOLFORMER_FSDD_ARCHIVE names no archive of recorded digits")
    flags = [
        "--dataset=fsdd",
        f"--manual_dir={os.environ['POOLFORMER_FSDD_ARCHIVE']}",
        f"--data_dir={tmp_path / 'data'}",
    ]
    call("prepare_data", *flags)
    out = capsys.readouterr().out
    for line in (
        "train: 2,400 clips, 1,051 s of audio, 0.16 to 2.28 s each, 6 speakers, 400 clips of each",
        "validation: 300 clips, 132 s of audio, 0.14 to 1.31 s each, 6 speakers, 50 clips of each",
        "test: 300 clips, 129 s of audio, 0.14 to 1.15 s each, 6 speakers, 50 clips of each",
    ):
        assert line in out
    call(
        "train",
        "--config=configs/fsdd.py",
        f"--workdir={tmp_path / 'run'}",
        f"--data_dir={tmp_path / 'data'}",
        "--config.data.seq_len=1920",
        "--config.data.train_len=1920",
        "--config.model.layers=(0,0,1,1)",
        "--config.train.batch_size=8",  # One for each device.
        "--config.train.num_steps=30",
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    before, after = (r["bits_per_sample"] for r in rows if r["kind"] == "validation")
    training = [r["bits_per_sample"] for r in rows if r["kind"] == "train"]
    assert len(training) == 30
    # Three times what batches differ by at the start (8.5 to 8.7); the averaged parameters, which
    # validation uses, follow later.
    assert training[-1] < training[0] - 0.6
    assert after < before
