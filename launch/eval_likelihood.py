"""Computes the bits per sample of a trained model on a whole split.

    python -m launch.eval_likelihood --workdir=runs/digits --split=test

Writes <workdir>/likelihood_<split>.json. Uses the averaged parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

from absl import flags

from launch import command_line
from launch.experiment import read_experiment

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_SPLIT = flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "Split.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "By validation bits, or the newest."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of data sets; overrides the config's.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Clips per step; train.eval_batch_size if not given.", lower_bound=1
)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Connect the processes of a pod.")


def main(argv):
    """Restores, evaluates, writes."""
    del argv
    workdir = pathlib.Path(_WORKDIR.value)
    with command_line.user_errors():
        experiment = read_experiment(workdir)

    import jax

    from launch.restore import restore_ema_params
    from poolformer_jax.data.builders.prepare import open_splits
    from poolformer_jax.data.pipeline import eval_batches
    from poolformer_jax.evals.likelihood import make_likelihood_evaluator
    from poolformer_jax.training import sharding

    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    mesh = sharding.make_mesh()
    data = experiment.data
    if _DATA_DIR.value:
        data = dataclasses.replace(data, data_dir=_DATA_DIR.value)
    train = experiment.train
    if _BATCH_SIZE.value:
        train = dataclasses.replace(train, eval_batch_size=_BATCH_SIZE.value)
    with command_line.user_errors():
        sharding.check_eval_batch_size(train, mesh)
        params, step = restore_ema_params(workdir, experiment, mesh, _CHECKPOINT.value)
        batches = eval_batches(
            open_splits(data)[_SPLIT.value],
            data,
            batch_size=train.eval_batch_size // jax.process_count(),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
    evaluate = make_likelihood_evaluator(
        experiment.model, put_batch=functools.partial(sharding.put_batch, mesh)
    )
    likelihood = evaluate(params, batches)
    assert likelihood is not None  # Nobody asked it to stop.
    if jax.process_index() == 0:
        path = workdir / f"likelihood_{_SPLIT.value}.json"
        result = {"split": _SPLIT.value, "step": step, **dataclasses.asdict(likelihood)}
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(
            f"{likelihood.bits_per_sample:.4f} bits per sample on {_SPLIT.value}: all "
            f"{likelihood.num_clips:,} clips, {likelihood.num_samples:,} samples, averaged "
            f"parameters of step {step}; written to {path}"
        )


if __name__ == "__main__":
    command_line.run(main)
