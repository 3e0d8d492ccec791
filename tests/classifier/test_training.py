import dataclasses
import json
import logging
import math
import re

import jax
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.classifier.files import load_classifier
from poolformer_jax.classifier.plateau import Plateau
from poolformer_jax.classifier.training import (
    ClassifierProgress,
    learning_rate,
    train_classifier,
)
from poolformer_jax.training.loop import TrainingDivergedError
from tests.classifier.tiny_classifier import AUGMENT, MODEL, TRAIN, make_batch

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Best after two epochs: of equal accuracies the one with the lower loss.
RESULTS = [(0.5, 1.0), (0.9, 0.7), (0.9, 0.8)]


def run(workdir, *, train_config=TRAIN, results=RESULTS, kill_in_epoch=None):
    """Trains on two batches an epoch; returns the progress and what was evaluated."""
    evaluated = []

    def batches(epoch):
        yield make_batch(10 * epoch)
        if epoch == kill_in_epoch:
            raise KeyboardInterrupt
        yield make_batch(10 * epoch + 1)

    def evaluate(params, stats):
        evaluated.append(jax.tree.map(np.asarray, (params, stats)))
        # Known by what is written, so that a resumed run is told the same.
        epoch = (workdir / "metrics.jsonl").read_text().count("validation")
        accuracy, loss = results[epoch]
        return {"accuracy": accuracy, "loss": loss, "num_clips": 10}

    progress = train_classifier(
        model_config=MODEL,
        train_config=train_config,
        augment_config=AUGMENT,
        class_names=("yes", "no", "maybe"),
        source={"trained_on": "bands"},
        mesh=sharding.make_mesh(jax.devices()[:1]),
        batches=batches,
        evaluate=evaluate,
        workdir=workdir,
    )
    return progress, evaluated


def records(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "clips_per_second"} for row in rows]


def assert_same_arrays(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)  # Bit for bit.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    logger = logging.getLogger("poolformer_jax")
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    progress, evaluated = run(workdir)
    logger.setLevel(level)
    logger.removeHandler(handler)
    return workdir, progress, evaluated, lines


def test_best_classifier_is_kept_with_its_names_and_origin(whole):
    workdir, progress, evaluated, _ = whole
    assert (progress.epochs, progress.best_epoch) == (3, 2)
    saved = load_classifier(workdir)
    assert saved.class_names == ("yes", "no", "maybe") and saved.config == MODEL
    assert saved.source == {"trained_on": "bands", "epochs": 2, "validation_accuracy": 0.9}
    assert_same_arrays((saved.params, saved.stats), evaluated[1])


def test_every_epoch_is_written_down(whole):
    workdir, _, _, lines = whole
    rows = records(workdir)
    assert [(row["kind"], row["step"]) for row in rows] == [
        (kind, epoch) for epoch in (1, 2, 3) for kind in ("train", "validation")
    ]
    assert [(row["accuracy"], row["loss"]) for row in rows[1::2]] == RESULTS
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert [row["learning_rate"] for row in rows[::2]] == [0.05, 0.05, 0.05]
    assert re.fullmatch(
        r"epoch 2/3 \| loss \d\.\d{4} \| validation 0\.7000, 90\.00% \(best\) \| lr 5\.00e-02 \| "
        r"[\d.]+ clips/s \| 0:00:\d\d left",
        lines[1],
    )
    assert "(best)" in lines[0] and "(best)" not in lines[2]


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_killed_run_goes_on_bit_for_bit(whole, tmp_path, epoch):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, kill_in_epoch=epoch)
    progress, evaluated = run(tmp_path)
    assert len(evaluated) == 3 - epoch  # What was complete was not done again.
    assert progress == whole[1]
    assert_same_arrays(evaluated[-1], whole[2][-1])
    assert records(tmp_path) == records(whole[0])
    one, other = load_classifier(tmp_path), load_classifier(whole[0])
    assert_same_arrays((one.params, one.stats), (other.params, other.stats))
    assert one.source == other.source


def test_finished_run_has_nothing_to_do_and_can_be_extended(tmp_path, caplog):
    run(tmp_path, train_config=dataclasses.replace(TRAIN, num_epochs=1))
    with caplog.at_level("INFO"):
        progress, evaluated = run(tmp_path, train_config=dataclasses.replace(TRAIN, num_epochs=1))
    assert not evaluated and progress.epochs == 1
    assert "raise train.num_epochs" in caplog.text
    progress, evaluated = run(tmp_path)
    assert progress.epochs == 3 and len(evaluated) == 2


def test_divergence_is_an_error(tmp_path):
    with pytest.raises(TrainingDivergedError, match=r"epoch 1 ended .* loss of nan.* \(now 0.05\)"):
        run(tmp_path, results=[(0.1, math.nan)])


def test_rates_of_the_schedules():
    progress = ClassifierProgress(epochs=2, plateau=Plateau(best=1.0, reductions=3))
    assert learning_rate(TRAIN, progress) == pytest.approx(0.05 * 0.1**3)
    cosine = dataclasses.replace(TRAIN, schedule="cosine", num_epochs=6)
    assert learning_rate(cosine, ClassifierProgress()) == 0.05
    assert learning_rate(cosine, progress) == pytest.approx(0.05 * 3 / 4)  # cos 60° is 1/2.
