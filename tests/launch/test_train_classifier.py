"""launch.train_classifier: from clips to a tested classifier; runs that are stopped, misused."""

import contextlib
import io
import json
import os
import re
import signal

import numpy as np
import pytest

from poolformer_jax.classifier import objective
from poolformer_jax.classifier.files import DESCRIPTION, load_classifier
from poolformer_jax.data.source import open_splits
from poolformer_jax.training.metrics_file import read_metrics
from tests.launch.processes import call, finish, mistake, start

STEPS = 6


def flags_of(workdir, tiny_config, *arguments):
    """An epoch of 80 clips has ten batches; steps 3 and 6 end with an evaluation."""
    return [
        "--config=digits_classifier",
        "--config.data.name=digits_tiny",
        f"--config.train.num_steps={STEPS}",
        "--config.train.batch_size=8",
        "--config.train.log_every=1",
        "--config.train.eval_every=3",
        "--config.train.checkpoint_every=3",
        f"--workdir={workdir}",
        f"--data_dir={tiny_config.data_dir}",
        *arguments,
    ]


def train(*arguments):
    """Trains in this process; returns the outcome and what was printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        outcome = call("train_classifier", *flags_of(*arguments))
    return outcome, printed.getvalue()


def written(workdir):
    """What a run left: metrics, test result, arrays."""
    rows, _ = read_metrics(workdir / "metrics.jsonl")
    saved = load_classifier(workdir)
    return (
        [
            (row["kind"], row["step"], row["loss"], row["accuracy"])
            for row in rows
            if row["kind"] != "checkpoint"
        ],
        json.loads((workdir / "classifier_test.json").read_text()),
        [np.asarray(x).tobytes() for x in (saved.params["head"]["kernel"], saved.stats["conv_3"])],
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_config):
    """The workdir of a whole run, and what it printed."""
    workdir = tmp_path_factory.mktemp("whole")
    outcome, printed = train(workdir, tiny_config)
    assert outcome.finished
    return workdir, printed


def test_run_ends_with_a_tested_classifier(whole, tiny_config):
    workdir, printed = whole
    assert "316,394 parameters | 80 train, 20 validation, 20 test clips | 8 cpu dev" in printed
    assert len(re.findall(r"^step +\d/6 .* clips/s .* left$", printed, re.MULTILINE)) >= 3
    assert re.search(r"^[\d.]+% of 20 test clips \([\d.]+% of validation, after s", printed, re.M)
    saved = load_classifier(workdir)
    assert saved.class_names[:3] == ("zero", "one", "two") and len(saved.class_names) == 10
    test = json.loads((workdir / "classifier_test.json").read_text())
    confusion = np.array(test["confusion"])
    labels = [example["label"] for example in open_splits(tiny_config)["test"]]
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert test["accuracy"] == np.trace(confusion) / 20 == saved.source["test_accuracy"]
    assert saved.source["trained_on"] == "digits_tiny"


@pytest.mark.slow
def test_sigterm_within_an_epoch_saves_and_the_run_goes_on_bit_for_bit(
    whole, tmp_path, tiny_config, monkeypatch
):
    describe = objective.ClassifierObjective.describe
    calls = []

    def describe_and_stop(self, metrics):
        calls.append(metrics)
        if len(calls) == 6:  # Evaluation 0, steps 2 and 3, evaluation 3, steps 4 and 5.
            os.kill(os.getpid(), signal.SIGTERM)
        return describe(self, metrics)

    monkeypatch.setattr(objective.ClassifierObjective, "describe", describe_and_stop)
    outcome, printed = train(tmp_path, tiny_config)
    assert not outcome.finished and outcome.step % 3, outcome
    assert f"asked to stop: saving a checkpoint of step {outcome.step}" in printed
    assert f"stopped at step {outcome.step}, checkpoint saved; to resume, run the same" in printed
    assert not (tmp_path / "classifier_test.json").exists()
    outcome, printed = train(tmp_path, tiny_config)
    assert outcome.finished and "resuming from the checkpoint of step" in printed
    assert written(tmp_path) == written(whole[0])


@pytest.mark.nightly
def test_killed_run_goes_on_bit_for_bit(whole, tmp_path, tiny_config):
    flags = flags_of(tmp_path, tiny_config)
    process = start("train_classifier", *flags)
    for line in process.stdout:
        if re.match(r"step +4/6", line):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    code, _, err = finish(start("train_classifier", *flags))
    assert code == 0, err
    assert written(tmp_path) == written(whole[0])


@pytest.mark.slow
def test_clips_as_they_are(tmp_path, tiny_config):
    short = ["--config.train.num_steps=1", "--config.augment.probability=0"]
    outcome, printed = train(tmp_path, tiny_config, *short)
    assert outcome.finished and "of 20 test clips" in printed and (tmp_path / DESCRIPTION).exists()


def test_finished_run_has_nothing_to_do(whole, tiny_config):
    before = written(whole[0])
    outcome, printed = train(whole[0], tiny_config)
    assert outcome.finished and "nothing to do: step 6 of train.num_steps 6 is done" in printed
    assert written(whole[0]) == before


def test_another_network_in_the_same_workdir(whole, tiny_config):
    flags = flags_of(whole[0], tiny_config, "--config.model.mel_padding=constant")
    message = mistake("train_classifier", *flags)
    assert "model.mel_padding: 'reflect' -> 'constant'" in message


def test_run_of_a_version_that_counted_epochs(tmp_path, tiny_config):
    model = {"kind": "small", "num_classes": 10}
    config = {"model": model, "data": {}, "train": {"num_epochs": 2}, "augment": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = mistake("train_classifier", *flags_of(tmp_path, tiny_config))
    assert len(message.splitlines()) == 1 and "train.num_epochs is 2" in message
    assert "classifier.json and classifier.npz beside it can be used" in message
    assert "use the version that made the run" in message and "train into a new workdir" in message


def test_music_is_refused_before_there_is_a_folder(tmp_path, tiny_config):
    flags = flags_of(tmp_path / "run", tiny_config, "--config.data.name=beethoven")
    message = mistake("train_classifier", *flags)
    assert message.startswith(
        "error: config.data: the data set 'beethoven' has no labels to learn; use"
    )
    assert len(message.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_workdirs_noise_batches_and_steps_that_do_not_fit(tmp_path, tiny_config):
    (tmp_path / DESCRIPTION).write_text("{}")
    assert "holds a classifier that was not trained there" in mistake(
        "train_classifier", *flags_of(tmp_path, tiny_config)
    )
    for flag, message in (
        (f"--config.data.noise_dir={tmp_path}", "holds no WAV file of a second or more"),
        ("--config.train.batch_size=20", "train.batch_size 20 does not split over 8 devices"),
        ("--config.train.num_steps=0", "num_steps 0 must be at least 1"),
    ):
        found = mistake("train_classifier", *flags_of(tmp_path / "run", tiny_config, flag))
        assert message in found and len(found.splitlines()) == 1
        assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.nightly
def test_divergence_is_one_clear_error(tmp_path, tiny_config):
    flags = ["--config.train.skip_norm=1e-9", "--config.train.max_consecutive_skips=1"]
    message = mistake("train_classifier", *flags_of(tmp_path, tiny_config, *flags))
    assert "the last 1 steps up to step 1 were skipped" in message
