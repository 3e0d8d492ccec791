"""The one place that knows the mesh: where batches and parameters live.

The mesh has one axis, `data`, over all devices of all processes. Batches are split along it;
parameters follow `PARAMETER_RULES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from poolformer_jax.training.config import TrainConfig

DATA_AXIS = "data"

# (regular expression of a parameter's path, how its axes are split); the first match counts. The
# optimiser's moments and the average have paths that end alike and follow.
PARAMETER_RULES: tuple[tuple[str, P], ...] = ((r".*", P()),)


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices, or of the given ones, along `data`."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (DATA_AXIS,))


def check_batch_sizes(config: TrainConfig, mesh: Mesh) -> None:
    """Raises ValueError unless the batches split evenly over the mesh."""
    devices = mesh.shape[DATA_AXIS]
    if config.batch_size % (devices * config.grad_accum_steps):
        step = devices * config.grad_accum_steps
        raise ValueError(
            f"train.batch_size {config.batch_size} does not split over {devices} devices x "
            f"{config.grad_accum_steps} accumulation steps; use a multiple of {step}, such as "
            f"{-(-config.batch_size // step) * step}"
        )
    check_eval_batch_size(config, mesh)


def check_eval_batch_size(config: TrainConfig, mesh: Mesh) -> None:
    """Raises ValueError unless an evaluation batch splits evenly over the mesh."""
    check_batch_size("train.eval_batch_size", config.eval_batch_size, mesh)


def check_batch_size(name: str, size: int, mesh: Mesh) -> None:
    """Raises ValueError, with the name of the field, unless a batch splits evenly over the mesh."""
    devices = mesh.shape[DATA_AXIS]
    if size % devices:
        raise ValueError(
            f"{name} {size} does not split over {devices} devices; use a multiple of {devices}, "
            f"such as {-(-size // devices) * devices}"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over all devices."""
    return NamedSharding(mesh, P(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def state_sharding(mesh: Mesh, abstract_state: Any) -> Any:
    """A sharding for every leaf of a train state or parameter tree, by `PARAMETER_RULES`."""

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path)
        spec = next(spec for pattern, spec in PARAMETER_RULES if re.search(pattern, name))
        return NamedSharding(mesh, spec if len(spec) <= leaf.ndim else P())

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def abstract_state(mesh: Mesh, init: Callable[[], Any]) -> Any:
    """Shapes, types and shardings of what `init` returns, without computing it.

    These plain descriptions are what a checkpoint can be restored into and what a program can be
    compiled for, whether or not the devices exist.
    """
    shapes = jax.eval_shape(init)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_sharding(mesh, shapes),
    )


def init_sharded(mesh: Mesh, init: Callable[[], Any]) -> Any:
    """Computes `init()` with every leaf in its place."""
    return jax.jit(init, out_shardings=state_sharding(mesh, jax.eval_shape(init)))()


def jit_train_step(step: Callable, mesh: Mesh, abstract: Any) -> Any:
    """Compiles (state, batch) -> (state, metrics) for the mesh; the old state's memory is reused.

    Args:
      step: The pure step.
      mesh: Devices.
      abstract: What `abstract_state` says of the train state.
    """
    state = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        step,
        in_shardings=(state, batch_sharding(mesh)),
        out_shardings=(state, replicated(mesh)),
        donate_argnums=0,
    )


def map_rows(mesh: Mesh, function: Callable) -> Callable:
    """Lets every device compute a function on its own rows, where rows do not meet.

    Compiled for a mesh as it is, a Fourier transform would gather all rows on every device.

    Args:
      mesh: Devices.
      function: From trees of arrays with as many rows to such a tree.
    """
    rows = P(DATA_AXIS)
    return jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows)


def copy_to(mesh: Mesh, tree: Any) -> Any:
    """Copies arrays that every device holds whole to all devices of another mesh."""
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf.addressable_data(0), replicated(mesh)), tree
    )


def put_along(mesh: Mesh, tree: Any, axes: Sequence[int]) -> Any:
    """Splits the arrays of a tree over the mesh.

    Args:
      mesh: Devices of this process.
      tree: Arrays.
      axes: Of each leaf the axis to split, -1 for none.
    """
    leaves, structure = jax.tree.flatten(tree)
    specs = [P() if axis < 0 else P(*[None] * axis, DATA_AXIS) for axis in axes]
    placed = [
        jax.device_put(leaf, NamedSharding(mesh, spec))
        for leaf, spec in zip(leaves, specs, strict=True)
    ]
    return jax.tree.unflatten(structure, placed)


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes global arrays of the rows that this process loaded."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }
