"""The parameters of a run, for evaluation and sampling."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from poolformer_jax import sharding
from poolformer_jax.buckets import AnyPath
from poolformer_jax.experiment.configuration import Experiment
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.paths import workdir_path
from poolformer_jax.experiment.pretrained import read_exported
from poolformer_jax.experiment.workdir import EXPORTED, read_experiment
from poolformer_jax.training.checkpoint import Checkpointer, Weights
from poolformer_jax.training.errors import TrainingError
from poolformer_jax.training.sequence_objective import rank_likelihood


def restore_params(
    workdir: str | os.PathLike[str],
    experiment: Experiment | None = None,
    mesh: Mesh | None = None,
    *,
    step: int | str = "best",
    weights: Weights = "ema",
) -> tuple[Any, int]:
    """Restores parameters from a checkpoint of a run.

    Args:
      workdir: Of the run.
      experiment: Whose model has these parameters; that of the run if None.
      mesh: Where they go; all devices, split as in training, if None.
      step: The number of a step, 400 or "400"; "latest"; or "best": that with the fewest validation
        bits, the latest if none was evaluated. In place of either, if damaged, the next is taken.
      weights: The averaged parameters, or those that were trained.

    Returns:
      (parameters, the checkpoint's step).

    Raises:
      UserError: If the run has no such checkpoint (the complete ones are listed), it is damaged, or
        `step` is none of these.
    """
    with user_errors():
        return _restore(workdir_path(workdir), experiment, mesh, step=str(step), weights=weights)


def make_reading_mesh(experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that parameters are restored to: split as in training, as far as devices allow."""
    count = jax.device_count() if devices is None else len(devices)
    return sharding.make_mesh(experiment.mesh.for_reading(count), devices=devices)


def _restore(
    workdir: AnyPath,
    experiment: Experiment | None,
    mesh: Mesh | None,
    *,
    step: str,
    weights: Weights,
) -> tuple[Any, int]:
    if step not in ("best", "latest") and not step.isdecimal():
        raise ValueError(f"step {step!r} is neither 'best' nor 'latest' nor the number of a step")
    experiment = experiment or read_experiment(workdir)
    mesh = mesh or make_reading_mesh(experiment)
    directory = workdir / "checkpoints"
    exported = (workdir / EXPORTED[0]).is_file()
    if not exported and not directory.is_dir():
        raise FileNotFoundError(f"{directory} is missing: the run has no checkpoint yet")
    model = experiment.model.build()
    init = functools.partial(model.init_params, jax.random.key(0))
    abstract = sharding.abstract_state(mesh, init, model.parameter_rules)
    if exported:
        params, only = read_exported(workdir, abstract)
        if weights != "ema" or step not in ("best", "latest", str(only)):
            raise ValueError(
                f"{workdir} holds the averaged weights of step {only} alone, not the {weights} "
                f"weights of step {step}"
            )
        return params, only
    checkpointer = Checkpointer(directory, rank_likelihood, read_only=True)
    try:
        number: Any = int(step) if step.isdecimal() else step
        return checkpointer.restore_params(abstract, step=number, weights=weights)
    except TrainingError as error:
        raise ValueError(str(error)) from error
    finally:
        checkpointer.close()
