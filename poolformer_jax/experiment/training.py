"""Trains a sequence model: checks, data, objective, and the one loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from poolformer_jax import interruption, own_files
from poolformer_jax.experiment.configuration import Experiment
from poolformer_jax.experiment.hosts import (
    Distributed,
    agree,
    code_facts,
    errors_of_all,
    experiment_facts,
)
from poolformer_jax.experiment.paths import workdir_path
from poolformer_jax.experiment.pretrained import read_initial_params
from poolformer_jax.experiment.workdir import PROFILE, check_workdir, set_aside_run
from poolformer_jax.lock import release_at_end, take_lock

if TYPE_CHECKING:
    from poolformer_jax.training.trainer import Outcome

_LOG = logging.getLogger(__name__)


@release_at_end()
@interruption.keeps("no step was taken, and nothing is lost")
def train(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    *,
    restart: bool = False,
    distributed: Distributed | bool = False,
    devices: Sequence[Any] | None = None,
    profile_steps: tuple[int, int] | None = None,
    on_log: Callable[[int], None] = lambda step: None,
) -> Outcome:
    """Trains a model, or goes on from the latest checkpoint in the workdir.

    Args:
      experiment: What to train, on what, and how.
      workdir: Folder for checkpoints and metrics; made if missing.
      restart: Whether to start again from step 0; the run until now is set aside.
      distributed: Whether, or how, to connect several processes first; they all do the same.
      devices: What to train on; all devices if None.
      profile_steps: The first and the last step of a trace, which is written to `profile` in the
        workdir. Of a start that resumes among them or after them, those that are left.
      on_log: Called with the step after a line of progress or an evaluation, see `LivePlot`. If it
        fails, that is logged, and it is not called again.

    Returns:
      At which step training ended, and whether that is the end of the run.

    Raises:
      UserError: Before anything is compiled, if the workdir, the data, the devices or what
        `train.init_from` names do not fit, or another training is at work in the workdir.
      TrainingDivergedError: If too many steps in a row had to be skipped.
    """
    lock = None
    with errors_of_all(distributed):
        workdir = workdir_path(workdir)
        changes = check_workdir(workdir, experiment, restart=restart)
        if profile_steps is not None:
            _check_profile_steps(*profile_steps, experiment.train.num_steps)
            own_files.check(workdir, [PROFILE])
        if not distributed:
            lock = take_lock(workdir)
    options = {"restart": restart, "profile_steps": profile_steps}
    agree(
        distributed,
        lambda: experiment_facts(experiment) | code_facts() | options,
        workdir=workdir,
    )

    # Only now the imports of JAX, data sets and checkpoints, which take seconds.
    import jax
    from jax.experimental import multihost_utils

    from poolformer_jax import sharding
    from poolformer_jax.data.pipeline import eval_batches, train_batches
    from poolformer_jax.data.source import dataset_facts, evaluated_clips, open_splits
    from poolformer_jax.evals.likelihood.evaluator import (
        choose_chunk_length,
        make_likelihood_evaluator,
    )
    from poolformer_jax.experiment.environment import record_start
    from poolformer_jax.models.config import check_length
    from poolformer_jax.models.sequence_model import count_params
    from poolformer_jax.training.checkpoint import complete_steps
    from poolformer_jax.training.loop import train as run_loop
    from poolformer_jax.training.sequence_objective import objective_of
    from poolformer_jax.training.trainer import Trainer

    data, config, model = experiment.data, experiment.train, experiment.model.build()

    def train_data(start_example):
        share = sharding.share_of_batch(mesh, config.batch_size)
        return train_batches(splits["train"], data, start_example=start_example, **share)

    with errors_of_all(distributed):
        if distributed and jax.process_index() == 0:
            lock = take_lock(workdir)
        parts = config.grad_accum_steps or 1
        here = jax.default_backend()
        if experiment.model.platform != here:
            raise ValueError(
                f"config.model.platform is {experiment.model.platform!r}, but JAX runs on {here!r} "
                f"here; set --config.model.platform={here}, or find out why it does"
            )
        mesh = sharding.make_mesh(experiment.mesh, devices=devices)
        time_parts = mesh.shape[sharding.SEQUENCE]
        what = "data.seq_len" if data.train_len is None else "data.train_len"
        check_length(model, data.training_length, what=what, parts=time_parts)
        sharding.check_batch_size("train.batch_size", config.batch_size, mesh, parts=parts)
        sharding.check_batch_size("train.eval_batch_size", config.eval_batch_size, mesh)
        initial, facts = None, {}
        if config.init_from and (restart or not complete_steps(workdir / "checkpoints")):
            initial, facts["train.init_from"] = read_initial_params(config.init_from, experiment)
        splits = open_splits(data)
        validation = evaluated_clips(splits["validation"], data)
        train_data(0)  # Complains now of what it would complain of after compilation.
    agree(distributed, lambda: dataset_facts(splits) | facts, after_work=True)

    if jax.process_index() == 0:
        if restart:
            set_aside_run(workdir)
        sizes = f"{len(splits['train']):,} training and {len(validation):,} validation"
        record_start(
            workdir,
            experiment,
            num_parameters=count_params(model),
            clips=f"{sizes} clips",
            mesh=mesh,
            changes=changes,
        )
        if profile_steps is not None:
            own_files.claim(workdir, [PROFILE])

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the workdir is ready")

    # Whole clips, which may be longer than what is trained on, in the memory of a training step.
    chunk_length = choose_chunk_length(
        model, data.seq_len, limit=data.training_length, parts=time_parts
    )
    evaluator = make_likelihood_evaluator(model, mesh, chunk_length=chunk_length)

    def evaluate(params, should_stop):
        share = sharding.share_of_batch(mesh, config.eval_batch_size)
        batches = eval_batches(validation, data, **share)
        likelihood = evaluator(params, batches, should_stop)
        return None if likelihood is None else likelihood.summary()

    trainer = Trainer(
        objective_of(config, model, evaluate, initial),
        config,
        mesh=mesh,
        batches=train_data,
        workdir=workdir,
        check_workdir=(lambda: None) if lock is None else lock.check,
        rules=model.parameter_rules,
        profile_steps=profile_steps,
        on_log=on_log,
    )
    return run_loop(trainer)


def _check_profile_steps(first: int, last: int, num_steps: int) -> None:
    if not 2 <= first <= last <= num_steps:
        raise ValueError(
            f"profile_steps {first}:{last} must be the first and the last of some steps in 2 to "
            f"train.num_steps {num_steps}; step 1 contains the compilation"
        )
