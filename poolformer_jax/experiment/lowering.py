"""The programs of an experiment, traced for a mesh whose devices need not exist."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from poolformer_jax import sharding
from poolformer_jax.experiment.configuration import Experiment
from poolformer_jax.models.config import check_length
from poolformer_jax.ops.draw import Draw
from poolformer_jax.training.sequence_objective import objective_of
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.step import make_train_step


class Programs:
    """Traces programs; of what it returns, `.lower().compile()` makes an executable.

    Args:
      experiment: Its model's platform says what to trace for.
      mesh: Devices that the programs will be for.

    Raises:
      ValueError: If batch, clips or parameters do not split over the mesh.
    """

    def __init__(self, experiment: Experiment, mesh: Mesh):
        train = experiment.train
        sharding.check_batch_size(
            "train.batch_size", train.batch_size, mesh, parts=train.grad_accum_steps or 1
        )
        self._mesh, self._train = mesh, train
        self._model = experiment.model.build()
        self._length = experiment.data.training_length
        time_parts = mesh.shape[sharding.SEQUENCE]
        check_length(self._model, self._length, what="training length", parts=time_parts)
        self._objective = objective_of(train, self._model, lambda params, should_stop: None)
        self._init = functools.partial(init_train_state, self._objective, train)
        self._rules = self._model.parameter_rules
        self._state = sharding.abstract_state(mesh, self._init, self._rules)

    def init_state(self) -> Any:
        """Computes the state before the first step, as a run does; the devices have to exist."""
        return sharding.init_sharded(self._mesh, self._init, self._rules)

    def trace_train_step(self) -> Any:
        """(state, batch) -> (state, metrics)."""
        batch = {"tokens": self._codes(self._length), "lengths": self._codes()}
        if self._model.num_classes:
            batch["labels"] = self._codes()
        step = make_train_step(self._objective, self._train)
        jitted = sharding.jit_train_step(
            step, self._mesh, self._state, plain_sums=self._objective.plain_sums
        )
        return jitted.trace(self._state, batch)

    def trace_evaluation_step(self) -> Any:
        """(params, codes, state) -> (log-probabilities, state), of clips as long as in training."""
        return self._trace_with_state(self._model.log_probs, self._codes(self._length))

    def trace_sampling_step(self) -> Any:
        """(params, keys, state) -> (codes, log-probabilities, state), one sample of each clip."""
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), self._train.batch_size))

        def draw(params: Any, keys: jax.Array, state: Any) -> Any:
            return self._model.draw(params, self._model.noise(keys), state, draw=Draw())

        return self._trace_with_state(draw, self._whole(keys))

    def _codes(self, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (self._train.batch_size, *shape),
            jnp.int32,
            sharding=sharding.batch_sharding(self._mesh, 1 + len(shape)),
        )

    def _trace_with_state(self, function: Callable[..., Any], rows: Any) -> Any:
        """Traces function(params, rows, state), the model's state as the list of its arrays."""
        structure: Any = None

        def init_leaves() -> list[jax.Array]:
            nonlocal structure
            state = self._model.init_state(self._train.batch_size, None)
            leaves, structure = jax.tree.flatten(state)
            return leaves

        leaves = jax.eval_shape(init_leaves)

        def run(params: Any, rows: Any, leaves: list[jax.Array]) -> Any:
            return function(params, rows, jax.tree.unflatten(structure, leaves))

        jitted = jax.jit(sharding.on_mesh(self._mesh, run))
        return jitted.trace(self._state.params, rows, self._whole(leaves))

    def _whole(self, shapes: Any) -> Any:
        """On every device."""
        whole = sharding.replicated(self._mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), shapes
        )
