"""The programs of an experiment for a mesh, whether or not its devices exist; nothing is run."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from poolformer_jax import sharding
from poolformer_jax.experiment.configuration import Experiment
from poolformer_jax.training.sequence_objective import SequenceObjective
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.step import make_train_step


def abstract_batch(mesh: Mesh, experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """Describes a training batch, split over the mesh."""
    rows, batch = sharding.batch_sharding(mesh), experiment.train.batch_size
    shapes = {"tokens": (batch, experiment.data.training_length), "lengths": (batch,)}
    if experiment.model.num_classes:
        shapes["labels"] = (batch,)
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
        for name, shape in shapes.items()
    }


def trace_train_step(experiment: Experiment, mesh: Mesh) -> Any:
    """Traces the whole training step; `.lower().compile()` makes the program.

    Args:
      experiment: Its model's platform says what to trace for.
      mesh: Devices that the program will be for.

    Raises:
      ValueError: If the batch does not split over the mesh.
    """
    train = experiment.train
    sharding.check_batch_size(
        "train.batch_size", train.batch_size, mesh, parts=train.grad_accum_steps
    )
    objective = SequenceObjective(experiment.model.build(), lambda params, should_stop: None)
    state = sharding.abstract_state(mesh, functools.partial(init_train_state, objective, train))
    step = sharding.jit_train_step(make_train_step(objective, train), mesh, state)
    return step.trace(state, abstract_batch(mesh, experiment))
