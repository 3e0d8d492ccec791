"""Trains a classifier epoch by epoch; the best by validation is kept in the workdir."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import logging
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, assert_never

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from poolformer_jax import sharding
from poolformer_jax.classifier.config import AugmentConfig, ClassifierConfig, ClassifierTrainConfig
from poolformer_jax.classifier.files import SavedClassifier, save_classifier
from poolformer_jax.classifier.plateau import Plateau
from poolformer_jax.classifier.step import (
    ClassifierState,
    init_classifier_state,
    make_classifier_step,
)
from poolformer_jax.training.loop import MAX_STEPS_IN_FLIGHT, TrainingDivergedError
from poolformer_jax.training.metrics import MetricWriter

_LOG = logging.getLogger(__name__)

EpochBatches = Callable[[int], Iterator[Mapping[str, np.ndarray]]]
"""From the number of epochs before to the batches of one, the same whenever it is asked."""

EvaluateClassifier = Callable[[Any, Any], Mapping[str, float]]
"""From (params, stats) to `accuracy`, `loss` and what else is worth writing down."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierProgress:
    """Where a run stands, beside its arrays.

    Attributes:
      epochs: Epochs done.
      plateau: Where the schedule stands.
      best_epoch: After how many epochs the best classifier was found.
      best_accuracy: Its validation accuracy.
      best_loss: Its validation loss, which decides between equal accuracies.
    """

    epochs: int = 0
    plateau: Plateau = Plateau()
    best_epoch: int = 0
    best_accuracy: float = -math.inf
    best_loss: float = math.inf


def train_classifier(
    *,
    model_config: ClassifierConfig,
    train_config: ClassifierTrainConfig,
    augment_config: AugmentConfig,
    class_names: tuple[str, ...],
    source: Mapping[str, Any],
    mesh: Mesh,
    batches: EpochBatches,
    evaluate: EvaluateClassifier,
    workdir: pathlib.Path,
) -> ClassifierProgress:
    """Trains from scratch, or on from the last complete epoch in the workdir.

    Args:
      model_config: Architecture.
      train_config: Recipe.
      augment_config: Changes of the training clips.
      class_names: Names of the logits.
      source: What the classifier's files tell of their origin, beside epoch and accuracy.
      mesh: Devices of this process.
      batches: Training batches.
      evaluate: On the validation clips.
      workdir: An existing folder. After each epoch it holds the best classifier so far, see
        `save_classifier`, one checkpoint of everything, and metrics.jsonl.

    Raises:
      TrainingDivergedError: If a loss is not finite.
    """
    init = functools.partial(init_classifier_state, model_config, train_config)
    abstract = sharding.abstract_state(mesh, init)
    manager = ocp.CheckpointManager(
        (workdir / "checkpoints").absolute(),
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "progress": ocp.JsonCheckpointHandler(),
        },
        options=ocp.CheckpointManagerOptions(max_to_keep=1),
    )
    if manager.latest_step() is None:
        state, progress = sharding.init_sharded(mesh, init), ClassifierProgress()
    else:
        state, progress = _restore(manager, abstract)
        _LOG.info("resuming after epoch %d in %s", progress.epochs, workdir)
    if progress.epochs >= train_config.num_epochs:
        _LOG.info(
            "nothing to do: epoch %d of train.num_epochs %d is done; raise train.num_epochs to "
            "train on",
            progress.epochs,
            train_config.num_epochs,
        )
    pure_step = make_classifier_step(model_config, train_config, augment_config, mesh=mesh)
    step = sharding.jit_train_step(pure_step, mesh, abstract)
    writer = MetricWriter(workdir, start_step=progress.epochs, validated=True)
    try:
        while progress.epochs < train_config.num_epochs:
            start = time.monotonic()
            rate = learning_rate(train_config, progress)
            state = state.replace(
                learning_rate=jax.device_put(np.float32(rate), sharding.replicated(mesh))
            )
            state, trained = _train_epoch(step, state, mesh, batches(progress.epochs))
            trained = {**trained, "learning_rate": rate}
            validated = evaluate(state.params, state.stats)
            _check_finite(trained, validated, progress, rate)
            progress = _advance(progress, validated, train_config)
            if progress.best_epoch == progress.epochs:
                about = {
                    **source,
                    "epochs": progress.epochs,
                    "validation_accuracy": progress.best_accuracy,
                }
                save_classifier(
                    workdir,
                    SavedClassifier(
                        config=model_config,
                        class_names=class_names,
                        source=about,
                        params=jax.tree.map(np.asarray, state.params),
                        stats=jax.tree.map(np.asarray, state.stats),
                    ),
                )
            # After the classifier: whoever is killed in between repeats the epoch, and writes the
            # same one.
            _save(manager, state, progress)
            writer.write("train", progress.epochs, trained)
            writer.write("validation", progress.epochs, validated)
            writer.flush()
            seconds = time.monotonic() - start
            _LOG.info(_epoch_line(progress, train_config.num_epochs, trained, validated, seconds))
    finally:
        manager.close()
        writer.close()
    return progress


def learning_rate(config: ClassifierTrainConfig, progress: ClassifierProgress) -> float:
    """Rate of the next epoch."""
    match config.schedule:
        case "plateau":
            return config.learning_rate * config.plateau_factor**progress.plateau.reductions
        case "cosine":
            done = progress.epochs / config.num_epochs
            return config.learning_rate * (1.0 + math.cos(math.pi * done)) / 2.0
        case _:
            assert_never(config.schedule)


def _train_epoch(
    step: Any,
    state: ClassifierState,
    mesh: Mesh,
    batches: Iterator[Mapping[str, np.ndarray]],
) -> tuple[ClassifierState, dict[str, float]]:
    """Returns the state, the means of the steps' metrics, and `clips_per_second`."""
    start, num_clips = time.monotonic(), 0
    collected: list[dict[str, Any]] = []
    for batch in batches:
        state, metrics = step(state, sharding.put_batch(mesh, batch))
        collected.append(metrics)
        num_clips += len(batch["labels"])
        if len(collected) > MAX_STEPS_IN_FLIGHT:
            jax.block_until_ready(collected[-MAX_STEPS_IN_FLIGHT - 1])
    means = {
        name: float(np.mean([float(metrics[name]) for metrics in collected]))
        for name in ("loss", "accuracy")
    }
    return state, {**means, "clips_per_second": num_clips / (time.monotonic() - start)}


def _advance(
    progress: ClassifierProgress, validated: Mapping[str, float], config: ClassifierTrainConfig
) -> ClassifierProgress:
    accuracy, loss = float(validated["accuracy"]), float(validated["loss"])
    progress = dataclasses.replace(
        progress,
        epochs=progress.epochs + 1,
        plateau=progress.plateau.after(loss, patience=config.plateau_patience),
    )
    if (accuracy, -loss) <= (progress.best_accuracy, -progress.best_loss):
        return progress
    return dataclasses.replace(
        progress, best_epoch=progress.epochs, best_accuracy=accuracy, best_loss=loss
    )


def _check_finite(
    trained: Mapping[str, float],
    validated: Mapping[str, float],
    progress: ClassifierProgress,
    rate: float,
) -> None:
    losses = trained["loss"], validated["loss"]
    if not all(map(math.isfinite, losses)):
        raise TrainingDivergedError(
            f"epoch {progress.epochs + 1} ended with a training loss of {losses[0]:.4g} and a "
            f"validation loss of {losses[1]:.4g}; start again in another workdir with a lower "
            f"--config.train.learning_rate (now {rate:g})"
        )


def _save(
    manager: ocp.CheckpointManager, state: ClassifierState, progress: ClassifierProgress
) -> None:
    manager.save(
        progress.epochs,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
        ),
        force=True,
    )


def _restore(
    manager: ocp.CheckpointManager, abstract: ClassifierState
) -> tuple[ClassifierState, ClassifierProgress]:
    items = manager.restore(
        manager.latest_step(),
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), progress=ocp.args.JsonRestore()
        ),
    )
    plateau = Plateau(*items.progress["plateau"])
    return items.state, ClassifierProgress(**{**items.progress, "plateau": plateau})


def _epoch_line(
    progress: ClassifierProgress,
    num_epochs: int,
    trained: Mapping[str, float],
    validated: Mapping[str, float],
    seconds: float,
) -> str:
    """One line that a person reads."""
    left = datetime.timedelta(seconds=round(seconds * (num_epochs - progress.epochs)))
    best = " (best)" if progress.best_epoch == progress.epochs else ""
    return (
        f"epoch {progress.epochs:>{len(str(num_epochs))}}/{num_epochs}"
        f" | loss {trained['loss']:.4f}"
        f" | validation {validated['loss']:.4f}, {validated['accuracy']:.2%}{best}"
        f" | lr {trained['learning_rate']:.2e}"
        f" | {trained['clips_per_second']:.1f} clips/s"
        f" | {left} left"
    )
