"""Trains a Poolformer, or goes on training it.

    python -m launch.train --config=configs/digits.py --workdir=runs/digits

Fields of the configuration are overridden by flags such as --config.train.batch_size=8. The same
command again goes on from the latest checkpoint in the workdir.
"""

from __future__ import annotations

import functools
import json
import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags

from launch import command_line
from poolformer_jax.experiment.experiment import make_experiment
from poolformer_jax.experiment.sections import check_workdir, write_experiment

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, configs/*.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints and metrics.", required=True
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of data sets; overrides the config's.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Connect the processes of a pod by jax.distributed.initialize()."
)
flags.mark_flag_as_required("config")


def main(argv):
    """Checks everything that is cheap to check, then trains."""
    del argv
    workdir = pathlib.Path(_WORKDIR.value)
    with command_line.user_errors():
        config = _CONFIG.value.to_dict()
        if _DATA_DIR.value:
            config["data"]["data_dir"] = _DATA_DIR.value
        experiment = make_experiment(config)
        changes = check_workdir(workdir, experiment)

    # Only now the imports of data sets, checkpoints and the rest, which take seconds.
    import jax

    from poolformer_jax import sharding
    from poolformer_jax.data.pipeline import eval_batches, train_batches
    from poolformer_jax.data.source import open_splits
    from poolformer_jax.evals.likelihood.evaluator import (
        choose_chunk_length,
        make_likelihood_evaluator,
    )
    from poolformer_jax.experiment.environment import describe_environment
    from poolformer_jax.models.poolformer.model import count_params
    from poolformer_jax.training.loop import TrainingDivergedError, train

    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    model, data = experiment.model, experiment.data
    mesh = sharding.make_mesh()
    processes = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    with command_line.user_errors():
        train_config = experiment.train
        parts = train_config.grad_accum_steps
        sharding.check_batch_size("train.batch_size", train_config.batch_size, mesh, parts=parts)
        sharding.check_batch_size("train.eval_batch_size", train_config.eval_batch_size, mesh)
        sources = open_splits(data)

        def batches(start_example):
            return train_batches(
                sources["train"],
                data,
                batch_size=experiment.train.batch_size // jax.process_count(),
                start_example=start_example,
                **processes,
            )

        batches(0)  # Complains now of what it would complain of after compilation.

    environment = describe_environment(count_params(model))
    if jax.process_index() == 0:
        write_experiment(workdir, experiment)
        text = json.dumps(environment, indent=2)
        (workdir / "environment.json").write_text(text + "\n", encoding="utf-8")
        print(
            f"{environment['num_parameters']:,} parameters | "
            f"{len(sources['train']):,} training and {len(sources['validation']):,} validation "
            f"clips | {mesh.size} {environment['platform']} devices",
            flush=True,
        )
        if environment["platform"] != model.platform:
            print(
                f"warning: config.model.platform is {model.platform!r} but JAX runs on "
                f"{environment['platform']!r}: scan='auto' is chosen for the former",
                flush=True,
            )
        for change in changes:
            print(f"changed since the last start: {change}", flush=True)

    # Whole clips, which may be longer than what is trained on, in the memory of a training step.
    evaluator = make_likelihood_evaluator(
        model,
        put_batch=functools.partial(sharding.put_batch, mesh),
        chunk_length=choose_chunk_length(model, data.seq_len, limit=data.train_len or data.seq_len),
        state_sharding=sharding.replicated(mesh),
    )

    def evaluate(params, should_stop):
        local_batch_size = experiment.train.eval_batch_size // jax.process_count()
        split = eval_batches(sources["validation"], data, batch_size=local_batch_size, **processes)
        result = evaluator(params, split, should_stop)
        return None if result is None else result.summary()

    try:
        outcome = train(
            model_config=model,
            train_config=experiment.train,
            mesh=mesh,
            batches=batches,
            evaluate=evaluate,
            workdir=workdir,
        )
    except TrainingDivergedError as error:
        sys.exit(f"error: {error}")
    if not outcome.finished:
        print(
            f"stopped at step {outcome.step}, checkpoint saved; to resume, run the same command "
            f"again: {shlex.join(sys.orig_argv)}",
            flush=True,
        )


if __name__ == "__main__":
    command_line.run(main)
