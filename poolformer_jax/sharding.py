"""The one place that knows the mesh: where batches and parameters live.

The mesh has one axis, `data`, over all devices of all processes. Batches are split along it;
parameters follow `PARAMETER_RULES`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA_AXIS = "data"

# (regular expression of a parameter's path, how its axes are split); the first match counts. The
# optimiser's moments and the average have paths that end alike and follow.
Rules = Sequence[tuple[str, P]]
PARAMETER_RULES: Rules = ((r".*", P()),)


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices, or of the given ones, along `data`."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (DATA_AXIS,))


def check_batch_size(name: str, size: int, mesh: Mesh, *, parts: int = 1) -> None:
    """Raises ValueError, with the name of the field, unless a batch splits evenly over the mesh.

    Args:
      name: Of the field or flag.
      size: Clips.
      mesh: Devices.
      parts: Accumulation steps, each of which splits over the devices.
    """
    step = mesh.shape[DATA_AXIS] * parts
    if size % step:
        accumulation = f" x {parts} accumulation steps" if parts > 1 else ""
        raise ValueError(
            f"{name} {size} does not split over {mesh.shape[DATA_AXIS]} devices{accumulation}; use "
            f"a multiple of {step}, such as {-(-size // step) * step}"
        )


def share_of_batch(batch_size: int) -> dict[str, int]:
    """What this process reads of a batch, as `data.pipeline` is told."""
    count = jax.process_count()
    index = jax.process_index()
    return {"batch_size": batch_size // count, "process_index": index, "process_count": count}


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over all devices."""
    return NamedSharding(mesh, P(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Asks, inside of a compiled function, for whole arrays on every device.

    It does so leaf by leaf: for the prefix of a tree in `out_shardings`, JAX 0.7 makes such a tree
    of things that are no arrays, which classes with checked types refuse.
    """
    whole = replicated(mesh)
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, whole), tree)


def state_sharding(mesh: Mesh, abstract_state: Any, rules: Rules = PARAMETER_RULES) -> Any:
    """A sharding for every leaf of a train state or parameter tree.

    Raises:
      ValueError: If no rule matches a leaf's path, or the one that does has more axes than the
        leaf: nothing is replicated in silence.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path)
        rule = next((rule for rule in rules if re.search(rule[0], name)), None)
        if rule is None:
            raise ValueError(f"no sharding rule matches {name}; end the rules with ('.*', P())")
        pattern, spec = rule
        if len(spec) > leaf.ndim:
            raise ValueError(
                f"the sharding rule {pattern!r} has {len(spec)} axes, {spec}, but {name} has "
                f"shape {leaf.shape}; put a rule for it in front"
            )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def abstract_state(mesh: Mesh, init: Callable[[], Any], rules: Rules = PARAMETER_RULES) -> Any:
    """Shapes, types and shardings of what `init` returns, without computing it.

    These plain descriptions are what a checkpoint can be restored into and what a program can be
    compiled for, whether or not the devices exist.
    """
    shapes = jax.eval_shape(init)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_sharding(mesh, shapes, rules),
    )


def init_sharded(mesh: Mesh, init: Callable[[], Any], rules: Rules = PARAMETER_RULES) -> Any:
    """Computes `init()` on every process, and puts every leaf in its place."""

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        # A copy, because a step may overwrite what it is given.
        whole = np.array(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    state = init()
    return jax.tree.map(place, state, state_sharding(mesh, state, rules))


def on_mesh(mesh: Mesh | None, function: Callable) -> Callable:
    """Makes the mesh the ambient one while a function is traced; None leaves it as it is.

    Whoever compiles a model for several devices wraps it in this: `map_batch` looks for the mesh.
    """
    if mesh is None:
        return function

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def map_batch(function: Callable, rows: Any, shared: Any) -> Any:
    """Computes function(rows, shared) with every device on its own rows of the batch.

    The compiler cannot split a kernel over devices, nor does it know that the gradient of a sparse
    matrix is best summed over devices after its zeros are gone. Without an ambient mesh, or with
    one device, the function is simply called.

    Args:
      function: From (rows, shared) to a tree of arrays with as many rows; rows must not meet.
      rows: Tree of arrays whose first axis is the batch.
      shared: Tree of arrays that are the same on all devices; their gradients are summed over them.
    """
    if not _splits_batch():
        return function(rows, shared)
    batch = P(DATA_AXIS)
    # Kernels do not say how their results vary over the devices, so that is not checked.
    mapped = jax.shard_map(function, in_specs=(batch, P()), out_specs=batch, check_vma=False)
    return mapped(rows, shared)


def add_over_batch(function: Callable, rows: Any, shared: Any) -> Any:
    """Adds function(rows, shared, device) over the devices, each of which has its own rows.

    What is added within the function, over parts of the rows, then goes between devices only once.

    Args:
      function: From rows, `shared` and the device's number to a tree of arrays; the devices' rows
        are in the order of these numbers.
      rows: Tree of arrays whose first axis is the batch.
      shared: Tree of arrays that are the same on all devices.
    """
    if not _splits_batch():
        return function(rows, shared, 0)

    def add(rows: Any, shared: Any) -> Any:
        return jax.lax.psum(function(rows, shared, jax.lax.axis_index(DATA_AXIS)), DATA_AXIS)

    return jax.shard_map(add, in_specs=(P(DATA_AXIS), P()), out_specs=P(), check_vma=False)(
        rows, shared
    )


def _splits_batch() -> bool:
    """Whether the ambient mesh has several devices that a batch is not yet split over by hand."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    automatic = kinds.get(DATA_AXIS) == jax.sharding.AxisType.Auto
    return automatic and mesh.shape[DATA_AXIS] > 1


def jit_train_step(step: Callable, mesh: Mesh, abstract: Any, *, plain_sums: bool = False) -> Any:
    """Compiles (state, batch) -> (state, metrics) for the mesh; the old state's memory is reused.

    Args:
      step: The pure step.
      mesh: Devices.
      abstract: What `abstract_state` says of the train state.
      plain_sums: See `Objective`.
    """
    state = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return jax.jit(
        on_mesh(mesh, step),
        in_shardings=(state, batch_sharding(mesh)),
        out_shardings=(state, replicated(mesh)),
        donate_argnums=0,
        compiler_options=_cpu_options(plain_sums) if on_cpu else None,
    )


@functools.cache
def _cpu_options(plain_sums: bool) -> dict[str, Any]:
    """What makes a training step on CPU compile and run faster, as far as this XLA knows it."""
    wanted: dict[str, Any] = {
        # A fifth of the time to compile, none to run: the loops are simple.
        "xla_llvm_disable_expensive_passes": True,
    }
    if plain_sums:
        # The library that XLA has for fused reductions sums a product over time more exactly, but
        # ten times as slowly as XLA's own code; it keeps the matrix products.
        wanted["xla_cpu_experimental_ynn_fusion_type"] = "LIBRARY_FUSION_TYPE_DOT"

    def is_known(option: str) -> bool:
        options = {option: wanted[option]}
        try:
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {option: wanted[option] for option in wanted if is_known(option)}


def map_rows(mesh: Mesh | None, function: Callable) -> Callable:
    """Lets every device compute a function on its own rows, where rows do not meet.

    Compiled for a mesh as it is, a Fourier transform would gather all rows on every device.

    Args:
      mesh: Devices; None leaves the function as it is.
      function: From trees of arrays with as many rows to such a tree.
    """
    if mesh is None:
        return function
    rows = P(DATA_AXIS)
    return jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows)


def copy_to(mesh: Mesh, tree: Any) -> Any:
    """Copies arrays, however they are sharded, whole to all devices of another mesh.

    With several processes each of them has to call it.
    """

    def copy(leaf: jax.Array) -> jax.Array:
        if not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return jax.device_put(leaf, replicated(mesh))

    return jax.tree.map(copy, tree)


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
