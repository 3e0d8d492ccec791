"""Training a classifier, from its experiment to the files that `eval_samples` reads."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from poolformer_jax import interruption, own_files, sharding
from poolformer_jax.classifier.clips import (
    read_labelled_clips,
    read_noise,
    synthetic_noise,
    training_batches,
)
from poolformer_jax.classifier.files import (
    ARRAYS,
    DESCRIPTION,
    SavedClassifier,
    load_classifier,
    save_classifier,
)
from poolformer_jax.classifier.inference import classify_labelled
from poolformer_jax.classifier.network import count_params
from poolformer_jax.classifier.objective import ClassifierObjective
from poolformer_jax.data.source import label_names, open_splits
from poolformer_jax.experiment.configuration import ClassifierExperiment
from poolformer_jax.experiment.environment import record_start
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.paths import local_path
from poolformer_jax.experiment.workdir import CONFIG_FILE, check_workdir, set_aside_run
from poolformer_jax.files import write_json
from poolformer_jax.lock import release_at_end, take_lock
from poolformer_jax.training.loop import train
from poolformer_jax.training.state import TrainState
from poolformer_jax.training.trainer import Outcome, Trainer

_LOG = logging.getLogger(__name__)

TEST_FILE = "classifier_test.json"
_FILES = (DESCRIPTION, ARRAYS, TEST_FILE)


@release_at_end()
@interruption.keeps("no step was taken, and nothing is lost")
def train_classifier(
    experiment: ClassifierExperiment,
    workdir: str | os.PathLike[str],
    *,
    restart: bool = False,
    devices: Any = None,
) -> Outcome:
    """Trains a classifier, or goes on training it; the best so far is always in the workdir.

    Writes classifier.json and classifier.npz after every evaluation that is the best so far, and
    classifier_test.json at the end. One process trains on all of its devices.

    Args:
      experiment: What to train.
      workdir: Folder of the run, made if missing.
      restart: Whether to start again from step 0; the run until now is set aside.
      devices: Devices to train on; all if None.

    Raises:
      UserError: For a mistake that can be mended, before anything expensive starts.
      TrainingDivergedError: After too many skipped steps in a row.
    """
    model, data, config = experiment.model, experiment.data, experiment.train
    mesh = sharding.make_mesh(devices=devices)
    noise = None
    with user_errors():
        workdir = local_path("workdir", workdir)
        changes = check_workdir(workdir, experiment, restart=restart)
        lock = take_lock(workdir)
        if (workdir / DESCRIPTION).exists() and not (workdir / CONFIG_FILE).exists():
            raise ValueError(
                f"--workdir={workdir} holds a classifier that was not trained there; choose another"
            )
        # In the workdir of a run, of an earlier version perhaps, they are the run's.
        own = _FILES if (workdir / CONFIG_FILE).exists() else ()
        own_files.check(workdir, _FILES, own=own)
        parts = config.grad_accum_steps or 1
        sharding.check_batch_size("train.batch_size", config.batch_size, mesh, parts=parts)
        if experiment.augment.probability > 0:
            noise = read_noise(data.noise_dir) if data.noise_dir else synthetic_noise(config.seed)
        sources = open_splits(data)
    class_names = label_names(sources["train"])
    clips = {split: read_labelled_clips(source) for split, source in sources.items()}

    if restart:
        set_aside_run(workdir)
    sizes = [f"{len(clips[split]):,} {split}" for split in ("train", "validation", "test")]
    environment = record_start(
        workdir,
        experiment,
        num_parameters=count_params(model),
        clips=f"{', '.join(sizes)} clips",
        mesh=mesh,
        changes=changes,
    )
    own_files.claim(workdir, _FILES, own=own)
    source = {
        "trained_on": data.name,
        "training_clips_sha256": hashlib.sha256(clips["train"].audio.data).hexdigest(),
        "git_commit": environment["git_commit"],
    }

    def save_best(state: TrainState, metrics: Mapping[str, float]) -> None:
        about = {"step": int(state.step), "validation_accuracy": metrics["accuracy"]}
        params, stats = jax.tree.map(np.asarray, (state.ema_params, state.statistics))
        classifier = SavedClassifier(
            config=model, class_names=class_names, source=source | about, params=params, stats=stats
        )
        save_classifier(workdir, classifier)

    outcome = train(
        Trainer(
            ClassifierObjective(
                model, experiment.augment, clips["validation"], config.eval_batch_size, mesh
            ),
            config,
            mesh=mesh,
            batches=lambda start_example: training_batches(
                clips["train"],
                batch_size=config.batch_size,
                seed=config.seed,
                start_example=start_example,
                noise=noise,
            ),
            workdir=workdir,
            on_best=save_best,
            check_workdir=lock.check,
        )
    )
    if outcome.finished:
        with interruption.keeps("training is done, the test is not; the classifier is kept"):
            _test(workdir, experiment, clips["test"], mesh)
    return outcome


def _test(workdir: pathlib.Path, experiment: ClassifierExperiment, clips: Any, mesh: Any) -> None:
    """Evaluates the best classifier on the test split, and writes that down beside it."""
    best = load_classifier(workdir)
    batch_size = experiment.train.eval_batch_size
    result = classify_labelled(
        best.config, best.params, best.stats, clips, batch_size=batch_size, mesh=mesh
    )
    confusion = result.confusion()
    assert result.accuracy is not None and confusion is not None
    source = {**best.source, "test_accuracy": result.accuracy}
    save_classifier(workdir, dataclasses.replace(best, source=source))
    write_json(
        workdir / TEST_FILE,
        {
            "data": experiment.data.name,
            **result.summary(),
            "class_names": best.class_names,
            "confusion": confusion.tolist(),
        },
    )
    _LOG.info(
        "%s of %s test clips (%s of validation, after step %s); classifier in %s, confusions in %s",
        f"{result.accuracy:.2%}",
        f"{len(clips):,}",
        f"{best.source['validation_accuracy']:.2%}",
        f"{best.source['step']:,}",
        workdir,
        workdir / TEST_FILE,
    )
