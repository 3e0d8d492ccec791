"""Computes the bits per sample of a trained model on a whole split.

    python -m launch.eval_likelihood --workdir=runs/digits --split=test

Writes <workdir>/likelihood_<split>.json (the mean, its interval, bits against the position in the
clip) and <workdir>/likelihood_<split>.csv (every clip). With another checkpoint, weights, length or
data set than the run's own, the names say so: likelihood_test_raw_step400_60s.json. Clips are read
in chunks of the training length, so that longer ones, with --length=60s, take no more memory on the
devices.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from launch import command_line
from poolformer_jax.data.datasets import SAMPLE_RATE
from poolformer_jax.experiment.experiment import check_evaluation, make_experiment, read_experiment

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file of the same model; that of the run if not given."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "Split.")
_STEP = flags.DEFINE_string(
    "step", "best", "Checkpoint: best (by validation bits), latest, or the number of its step."
)
_WEIGHTS = flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "Averaged, or as trained.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of data sets; overrides the config's.")
_LENGTH = flags.DEFINE_string(
    "length",
    None,
    "Where clips are cut, in samples (160000) or seconds (10s); data.seq_len if not given.",
)
_CHUNK_LENGTH = flags.DEFINE_integer(
    "chunk_length",
    None,
    "Samples that clips are read by, a multiple of the total pooling factor; equal parts of at "
    "most the training length if not given.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Clips per step; train.eval_batch_size if not given.", lower_bound=1
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Connect the processes of a pod.")


def main(argv):
    """Restores, evaluates, writes."""
    del argv
    workdir = pathlib.Path(_WORKDIR.value)
    with command_line.user_errors():
        trained = experiment = read_experiment(workdir)
        if _CONFIG.value is not None:
            experiment = make_experiment(_CONFIG.value.to_dict())
            check_evaluation(workdir, experiment)
        model, data, train = experiment.model, experiment.data, experiment.train
        if _DATA_DIR.value:
            data = dataclasses.replace(data, data_dir=_DATA_DIR.value)
        if _LENGTH.value is not None:
            length = command_line.parse_duration("length", _LENGTH.value, SAMPLE_RATE)
            data = dataclasses.replace(data, seq_len=length, train_len=None)
        if _BATCH_SIZE.value:
            train = dataclasses.replace(train, eval_batch_size=_BATCH_SIZE.value)

    import jax

    from poolformer_jax import sharding
    from poolformer_jax.data.pipeline import eval_batches
    from poolformer_jax.data.source import open_splits
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
    from poolformer_jax.experiment.restore import restore_params
    from poolformer_jax.training.checkpoint import Weights

    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    mesh = sharding.make_mesh()
    training_length = trained.data.train_len or trained.data.seq_len
    with command_line.user_errors():
        chunk_length = _CHUNK_LENGTH.value
        if chunk_length is None:
            chunk_length = choose_chunk_length(model, data.seq_len, limit=training_length)
        evaluate = make_likelihood_evaluator(
            model,
            put_batch=functools.partial(sharding.put_batch, mesh),
            chunk_length=chunk_length,
            state_sharding=sharding.replicated(mesh),
        )
        sharding.check_batch_size("train.eval_batch_size", train.eval_batch_size, mesh)
        weights: Weights = "raw" if _WEIGHTS.value == "raw" else "ema"
        params, step = restore_params(workdir, experiment, mesh, step=_STEP.value, weights=weights)
        source = open_splits(data)[_SPLIT.value]
        batches = eval_batches(
            source,
            data,
            batch_size=train.eval_batch_size // jax.process_count(),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
    likelihood = evaluate(params, batches)
    assert likelihood is not None  # Nobody asked it to stop.
    if jax.process_index() != 0:
        return
    about = {
        "data": data.name,
        "step": step,
        "weights": weights,
        "length": data.seq_len,
        "chunk_length": chunk_length,
        "training_length": training_length,
    }
    chosen = None if _STEP.value == "best" else step
    variant = name_variant(trained.data, data, step=chosen, weights=weights)
    try:
        result = write_likelihood(
            workdir, _SPLIT.value, source, likelihood, variant=variant, about=about
        )
    except FloatingPointError as error:
        sys.exit(f"error: step {step}: {error}")
    interval = result["confidence_interval"]
    spread = "" if interval is None else f" ({interval['low']:.4f} to {interval['high']:.4f})"
    print(
        f"{result['bits_per_sample']:.4f} bits per sample{spread} on {_SPLIT.value}: all "
        f"{result['num_clips']:,} clips, {result['num_samples']:,} samples, {weights} weights of "
        f"step {step}; written to {json_path(workdir, _SPLIT.value, variant)}, clip by clip to "
        f"{csv_path(workdir, _SPLIT.value, variant)}"
    )


if __name__ == "__main__":
    command_line.run(main)
