"""The bits per sample of a run on a whole split, written beside the run."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any, Literal, cast

from poolformer_jax import interruption, own_files
from poolformer_jax.config_checks import MAX_INT, Platform, check_batch, check_range
from poolformer_jax.data.config import DataConfig
from poolformer_jax.experiment.configuration import Experiment
from poolformer_jax.experiment.hosts import Distributed, agree, errors_of_all, run_facts
from poolformer_jax.experiment.paths import with_data_dir, workdir_path
from poolformer_jax.experiment.workdir import check_evaluation, read_experiment
from poolformer_jax.layers.config import on_platform
from poolformer_jax.models.config import check_length

_LOG = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]


@interruption.keeps("nothing was written, earlier results are as they were")
def evaluate_likelihood(
    workdir: str | os.PathLike[str],
    *,
    split: Split = "test",
    experiment: Experiment | None = None,
    step: int | str = "best",
    weights: Literal["ema", "raw"] = "ema",
    length: int | None = None,
    chunk_length: int | None = None,
    batch_size: int | None = None,
    data_dir: str | None = None,
    distributed: Distributed | bool = False,
    devices: Sequence[Any] | None = None,
) -> dict[str, Any] | None:
    """Evaluates a checkpoint on all clips of a split.

    Writes `<workdir>/likelihood_<split>.json` and .csv; the names of another evaluation than that
    of the best checkpoint's averaged weights on the run's own data say so, see `name_variant`.

    Args:
      workdir: Of the run.
      split: Of the data set.
      experiment: Another configuration of the same model, such as of other data; the run's if None.
      step: Of the checkpoint, see `restore_params`.
      weights: The averaged parameters, or those that were trained.
      length: Where clips are cut, in samples; data.seq_len if None.
      chunk_length: Samples that clips are read by, a multiple of the model's; equal parts of at
        most the training length if None.
      batch_size: Clips per step, over all devices; train.eval_batch_size if None.
      data_dir: Folder of data sets, if it is another than the configuration's.
      distributed: Whether, or how, to connect several processes first; they all do the same.
      devices: What to evaluate on; all devices if None.

    Returns:
      The content of the JSON file; None on all processes of a pod but the first.

    Raises:
      UserError: Before anything is compiled, if something is missing or does not fit.
      FloatingPointError: If the bits of a clip are not finite.
    """
    with errors_of_all(distributed):
        workdir = workdir_path(workdir)
        trained: Experiment = read_experiment(workdir)
        if experiment is not None:
            check_evaluation(workdir, experiment)
        experiment = experiment or trained
        data = _choose_data(experiment.data, data_dir, length)
        check_range("batch_size", batch_size, 1, MAX_INT)
        batch_size = batch_size or experiment.train.eval_batch_size
        check_batch("batch_size", batch_size, data.seq_len)
        if chunk_length is not None:
            check_length(experiment.model, chunk_length, what="chunk length")
            # What is longer than the clips would be filling.
            multiple = experiment.model.chunk_multiple
            chunk_length = min(chunk_length, -(-data.seq_len // multiple) * multiple)
    agree(
        distributed,
        lambda: {
            **run_facts(workdir, experiment),
            "split": split,
            "step": step,
            "weights": weights,
            "length": data.seq_len,
            "chunk_length": chunk_length,
            "batch_size": batch_size,
        },
    )

    # Only now the imports of JAX, data sets and checkpoints, which take seconds.
    import jax

    from poolformer_jax import sharding
    from poolformer_jax.data.pipeline import eval_batches
    from poolformer_jax.data.source import dataset_facts, evaluated_clips, open_splits
    from poolformer_jax.evals.likelihood.evaluator import (
        choose_chunk_length,
        make_likelihood_evaluator,
    )
    from poolformer_jax.evals.likelihood.files import (
        csv_path,
        json_path,
        name_variant,
        write_likelihood,
    )
    from poolformer_jax.experiment.restore import make_reading_mesh, restore_params

    mesh = make_reading_mesh(experiment, devices)
    model = on_platform(experiment.model, cast(Platform, jax.default_backend())).build()
    training_length = trained.data.training_length
    with errors_of_all(distributed):
        if chunk_length is None:
            chunk_length = choose_chunk_length(model, data.seq_len, limit=training_length)
        evaluate = make_likelihood_evaluator(model, mesh, chunk_length=chunk_length)
        sharding.check_batch_size("train.eval_batch_size", batch_size, mesh)
        params, number = restore_params(workdir, experiment, mesh, step=step, weights=weights)
        chosen = None if step == "best" else number
        variant = name_variant(trained.data, data, step=chosen, weights=weights)
        files = [path(workdir, split, variant).name for path in (json_path, csv_path)]
        keys = ("split", "bits_per_sample", "curve")
        own = own_files.of_earlier_version(workdir, files, files[0], *keys)
        own_files.check(workdir, files, own=own)
        splits = open_splits(data)
        source = evaluated_clips(splits[split], data)
        batches = eval_batches(source, data, **sharding.share_of_batch(mesh, batch_size))
    agree(distributed, lambda: dataset_facts(splits), after_work=True)
    with interruption.StopRequest() as stop:
        likelihood = evaluate(params, batches, stop.together)
    if likelihood is None:
        raise KeyboardInterrupt
    if jax.process_index() != 0:
        return None
    about = {
        "data": data.name,
        "step": number,
        "weights": weights,
        "length": data.seq_len,
        "eval_clips": data.eval_clips,
        "chunk_length": chunk_length,
        "training_length": training_length,
    }
    try:
        own_files.claim(workdir, files, own=own)
        result = write_likelihood(workdir, split, source, likelihood, variant=variant, about=about)
    except FloatingPointError as error:
        raise FloatingPointError(f"step {number}: {error}") from error
    _LOG.info(
        "%s; written to %s, clip by clip to %s",
        _describe(result),
        json_path(workdir, split, variant),
        csv_path(workdir, split, variant),
    )
    return result


def _choose_data(data: DataConfig, data_dir: str | None, length: int | None) -> DataConfig:
    data = with_data_dir(data, data_dir)
    return data if length is None else dataclasses.replace(data, seq_len=length, train_len=None)


def _describe(result: dict[str, Any]) -> str:
    interval = result["confidence_interval"]
    spread = "" if interval is None else f" ({interval['low']:.4f} to {interval['high']:.4f})"
    every = "all " if result["eval_clips"] is None else ""
    return (
        f"{result['bits_per_sample']:.4f} bits per sample{spread} on {result['split']}: {every}"
        f"{result['num_clips']:,} clips, {result['num_samples']:,} samples, {result['weights']} "
        f"weights of step {result['step']}"
    )
