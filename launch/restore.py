"""The averaged parameters of a run, for evaluation and sampling."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from launch.experiment import Experiment
from poolformer_jax.models.poolformer import init_params
from poolformer_jax.training import sharding
from poolformer_jax.training.checkpoint import Checkpointer


def restore_ema_params(
    workdir: pathlib.Path, experiment: Experiment, mesh: Mesh, which: str
) -> tuple[Any, int]:
    """Restores from the `best` checkpoint by validation bits, or the `latest`.

    Returns:
      (averaged parameters, the checkpoint's step).

    Raises:
      FileNotFoundError: If the run has no such checkpoint.
    """
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is missing: the run has no checkpoint yet")
    checkpointer = Checkpointer(directory)
    try:
        step = checkpointer.best_step if which == "best" else None
        step = checkpointer.latest_step if step is None else step
        init = functools.partial(init_params, experiment.model, jax.random.key(0))
        params = checkpointer.restore_ema_params(sharding.abstract_state(mesh, init), step=step)
    finally:
        checkpointer.close()
    assert step is not None  # Restoring would have failed.
    return params, step
