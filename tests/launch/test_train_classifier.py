"""The binary as a user runs it."""

import json
import re
import signal

import numpy as np
import pytest

from poolformer_jax.classifier.files import DESCRIPTION, load_classifier
from poolformer_jax.data.source import open_splits
from tests.launch.processes import finish, start

TINY = [
    "--config=configs/digits_classifier.py",
    "--config.data.name=digits_tiny",
    "--config.train.num_epochs=2",
    "--config.train.batch_size=20",
]


def train(workdir, *arguments, **environment):
    return start("train_classifier", *TINY, f"--workdir={workdir}", *arguments, **environment)


def written(workdir):
    """What a run left: epochs, test result, arrays."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    saved = load_classifier(workdir)
    return (
        [(row["kind"], row["step"], row["loss"], row["accuracy"]) for row in rows],
        json.loads((workdir / "classifier_test.json").read_text()),
        [np.asarray(x).tobytes() for x in (saved.params["head"]["kernel"], saved.stats["conv_3"])],
    )


@pytest.mark.slow
def test_killed_run_goes_on_bit_for_bit_to_a_classifier_with_its_test_result(tmp_path, tiny_config):
    data_dir = f"--data_dir={tiny_config.data_dir}"
    code, out, err = finish(train(tmp_path / "whole", data_dir))
    assert code == 0, err
    assert "316,394 parameters | 80 training, 20 validation and 20 test clips" in out
    assert len(re.findall(r"^epoch \d/2 .* clips/s .* left$", out, re.MULTILINE)) == 2
    assert re.search(r"^[\d.]+% of 20 test clips \([\d.]+% of validation, after ep", out, re.M)

    process = train(tmp_path / "killed", data_dir)
    for line in process.stdout:
        if line.startswith("epoch 1/2"):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, _, err = finish(train(tmp_path / "killed", data_dir))
    assert code == 0, err
    assert written(tmp_path / "killed") == written(tmp_path / "whole")

    saved = load_classifier(tmp_path / "whole")
    assert saved.class_names[:3] == ("zero", "one", "two") and len(saved.class_names) == 10
    test = json.loads((tmp_path / "whole" / "classifier_test.json").read_text())
    confusion = np.array(test["confusion"])
    labels = [example["label"] for example in open_splits(tiny_config)["test"]]
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert test["accuracy"] == np.trace(confusion) / 20 == saved.source["test_accuracy"]
    assert saved.source["trained_on"] == "digits_tiny"


@pytest.mark.slow
def test_clips_as_they_are_on_two_devices_and_another_network_in_the_same_workdir(
    tmp_path, tiny_config
):
    flags = [f"--data_dir={tiny_config.data_dir}", "--config.train.num_epochs=1"]
    two_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    unchanged = "--config.augment.probability=0"
    code, out, err = finish(train(tmp_path, *flags, unchanged, **two_devices))
    assert code == 0, err
    assert (tmp_path / DESCRIPTION).exists() and "epoch 1/1" in out and "| 2 cpu devices" in out
    code, _, err = finish(train(tmp_path, *flags, "--config.model.mel_padding=constant"))
    assert code == 1
    assert "model.mel_padding: 'reflect' -> 'constant'" in err and err.startswith("error: ")


def test_music_is_refused_early_in_one_line(tmp_path):
    code, _, err = finish(train(tmp_path / "run", "--config.data.name=beethoven"))
    assert code == 1
    assert err.startswith(
        "error: config.data: the data set 'beethoven' has no labels to learn; use"
    )
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_workdirs_noise_and_batches_that_do_not_fit(tmp_path):
    (tmp_path / DESCRIPTION).write_text("{}")
    code, _, err = finish(train(tmp_path))
    assert code == 1 and "holds a classifier that was not trained there" in err
    flags = [f"--config.data.noise_dir={tmp_path}"]
    code, _, err = finish(train(tmp_path / "run", *flags))
    assert code == 1 and "holds no WAV file of a second or more" in err
    code, _, err = finish(
        train(tmp_path / "run", XLA_FLAGS="--xla_force_host_platform_device_count=8")
    )
    assert code == 1 and "train.batch_size 20 does not split over 8 devices" in err
    assert err.startswith("error: ") and "Traceback" not in err
