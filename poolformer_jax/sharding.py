"""The one place that knows the mesh: where batches and parameters live.

The mesh has three axes. `data` and `fsdp` split a batch by rows; `fsdp` splits the parameters and
the optimiser's state too, as the rules of the model say; `sequence` splits every clip along time.
The compiler sees to the first two. Along `sequence` a program does it by hand (`map_time`): layers
exchange what goes across the borders, see `ops.scan_sharded`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from poolformer_jax.mesh_config import MeshConfig

DATA, FSDP, SEQUENCE = "data", "fsdp", "sequence"
BATCH = DATA, FSDP
"""The axes that split a batch by rows."""

# (regular expression of a parameter's path, how its axes are split); the first match counts. The
# optimiser's moments and the average have paths that end alike and follow.
Rules = Sequence[tuple[str, P]]
REPLICATED: Rules = ((r".*", P()),)
_OF_OPTIMIZER: Rules = ((r"/ns_coeffs$", P()),)  # Muon's polynomial, which is no parameter's.


def make_mesh(
    config: MeshConfig | None = None, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of all devices, or of the given ones; along `data` if there is no configuration.

    Neighbours along `fsdp` and `sequence` are neighbours in the network of a slice, and slices are
    parts of `data`.

    Raises:
      ValueError: If the configuration does not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    data, fsdp, sequence = (config or MeshConfig()).sizes(len(devices))
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", 0), []).append(device)
    if data % len(slices):
        raise ValueError(
            f"mesh fsdp {fsdp} x sequence {sequence} does not fit into a slice of "
            f"{len(devices) // len(slices)} devices; only data goes across slices"
        )
    shape = data // len(slices), fsdp, sequence
    parts = [
        np.reshape(part, shape)
        if fsdp == sequence == 1
        else mesh_utils.create_device_mesh(shape, part, allow_split_physical_axes=True)
        for _, part in sorted(slices.items())
    ]
    return Mesh(np.concatenate(parts), (DATA, FSDP, SEQUENCE))


def num_row_parts(mesh: Mesh) -> int:
    """Parts that the rows of a batch are split into."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def check_batch_size(name: str, size: int, mesh: Mesh, *, parts: int = 1) -> None:
    """Raises ValueError, with the name of the field, unless a batch splits evenly over the mesh.

    Args:
      name: Of the field or flag.
      size: Clips.
      mesh: Devices.
      parts: Accumulation steps, each of which splits over the devices.
    """
    step = num_row_parts(mesh) * parts
    if size % step:
        accumulation = f" x {parts} accumulation steps" if parts > 1 else ""
        raise ValueError(
            f"{name} {size} does not split over {num_row_parts(mesh)} devices{accumulation}; use "
            f"a multiple of {step}, such as {-(-size // step) * step}"
        )


def share_of_batch(mesh: Mesh, batch_size: int) -> dict[str, int]:
    """What this process reads of a batch, as `data.pipeline` is told.

    Processes whose devices have parts of the same clips read the same rows.

    Raises:
      ValueError: If some, but not all, of the rows of two processes are the same.
    """
    readers, index = _readers(mesh)
    return {"batch_size": batch_size // readers, "process_index": index, "process_count": readers}


@functools.lru_cache(maxsize=8)
def _readers(mesh: Mesh) -> tuple[int, int]:
    """How many groups of processes have the same rows, and the number of this process's."""
    rows_of: dict[int, set[int]] = {}
    for position, device in np.ndenumerate(mesh.devices):
        row = position[0] * mesh.shape[FSDP] + position[1]
        rows_of.setdefault(device.process_index, set()).add(row)
    groups = sorted({tuple(sorted(rows)) for rows in rows_of.values()})
    if sum(map(len, groups)) != num_row_parts(mesh):
        raise ValueError(
            f"mesh {dict(mesh.shape)} gives {len(rows_of)} processes overlapping parts of a batch; "
            "use a mesh.sequence that divides the devices of a process, or is a multiple of them"
        )
    return len(groups), groups.index(tuple(sorted(rows_of[jax.process_index()])))


def batch_sharding(mesh: Mesh, ndim: int = 1) -> NamedSharding:
    """Rows split over `data` and `fsdp`; of arrays with two axes the second, time, too."""
    return NamedSharding(mesh, P(BATCH, SEQUENCE) if ndim == 2 else P(BATCH))


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


def state_sharding(mesh: Mesh, abstract_state: Any, rules: Rules = REPLICATED) -> Any:
    """A sharding for every leaf of a train state or parameter tree; numbers are on every device.

    Raises:
      ValueError: If no rule matches a leaf's path, or the one that does has more axes than the leaf
        or splits one that the mesh does not divide: nothing is replicated in silence.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        if leaf.ndim == 0:
            return replicated(mesh)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rule = next((rule for rule in (*_OF_OPTIMIZER, *rules) if re.search(rule[0], name)), None)
        if rule is None:
            raise ValueError(f"no sharding rule matches {name} {leaf.shape}; add one for it")
        pattern, spec = rule
        if len(spec) > leaf.ndim:
            raise ValueError(
                f"the sharding rule {pattern!r} has {len(spec)} axes, {spec}, but {name} has "
                f"shape {leaf.shape}; put a rule for it in front"
            )
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise ValueError(
                    f"mesh.{axis} {mesh.shape[axis]} does not divide the {size} of {name} "
                    f"{leaf.shape}, which the sharding rule {pattern!r} splits; use a divisor"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def abstract_state(mesh: Mesh, init: Callable[[], Any], rules: Rules = REPLICATED) -> Any:
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


def init_sharded(mesh: Mesh, init: Callable[[], Any], rules: Rules = REPLICATED) -> Any:
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
    axes = _automatic_axes()
    if not axes:
        return function(rows, shared)
    batch = P(tuple(axis for axis in BATCH if axis in axes))
    # Kernels do not say how their results vary over the devices, so that is not checked.
    mapped = jax.shard_map(
        function, in_specs=(batch, P()), out_specs=batch, axis_names=axes, check_vma=False
    )
    return mapped(rows, shared)


def add_over_batch(function: Callable, rows: Any, shared: Any) -> Any:
    """Adds function(rows, shared, part) over the parts of a batch, each of which has its own rows.

    What is added within the function, over some rows after the others, then goes between devices
    only once.

    Args:
      function: From rows, `shared` and the number of the part to a tree of arrays; the rows of the
        parts are in the order of these numbers.
      rows: Tree of arrays whose first axis is the batch.
      shared: Tree of arrays that are the same for all parts.
    """
    axes = _automatic_axes()
    if not axes.issuperset(BATCH):
        return function(rows, shared, 0)

    def add(rows: Any, shared: Any) -> Any:
        return jax.lax.psum(function(rows, shared, jax.lax.axis_index(BATCH)), BATCH)

    mapped = jax.shard_map(
        add, in_specs=(P(BATCH), P()), out_specs=P(), axis_names={*BATCH}, check_vma=False
    )
    return mapped(rows, shared)


def gather_params(params: Any) -> Any:
    """Asks for whole parameters on every device of the ambient mesh.

    Left to the compiler, products with a part of a matrix exchange activations, which are larger
    by far where sequences are long.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if FSDP not in _automatic_axes() or mesh.shape[FSDP] == 1:
        return params
    whole = NamedSharding(mesh, P())
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, whole), params)


def map_time(function: Callable, steps: Any, shared: Any) -> Any:
    """Computes function(steps, shared) with every device on its own part of time.

    Within, `time_part` says which part it is, and `ops.scan_sharded` takes over what comes from the
    parts before. Without an ambient mesh that splits time, the function is simply called.

    Args:
      function: From (steps, shared) to (steps, shared).
      steps: Tree of arrays [b, t, ...]; the parts divide t.
      shared: Tree of arrays that are the same on all devices; their gradients are summed over them.
    """
    if num_time_parts() == 1 or SEQUENCE not in _automatic_axes():
        return function(steps, shared)
    specs = P(None, SEQUENCE), P()
    mapped = jax.shard_map(
        function, in_specs=specs, out_specs=specs, axis_names={SEQUENCE}, check_vma=False
    )
    return mapped(steps, shared)


def num_time_parts() -> int:
    """Parts that the ambient mesh splits time into."""
    return jax.sharding.get_abstract_mesh().shape.get(SEQUENCE, 1)


def time_part() -> jax.Array | None:
    """Which part of time this is; None unless within `map_time` on several devices."""
    if num_time_parts() == 1 or SEQUENCE in _automatic_axes():
        return None
    return jax.lax.axis_index(SEQUENCE)


def _automatic_axes() -> set[str]:
    """Axes of the ambient mesh over which the compiler splits; none on a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return set()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name for name, kind in kinds if kind == AxisType.Auto}


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
        in_shardings=(state, None),
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
    rows = P(BATCH)
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
    specs = [P() if axis < 0 else P(*[None] * axis, BATCH) for axis in axes]
    placed = [
        jax.device_put(leaf, NamedSharding(mesh, spec))
        for leaf, spec in zip(leaves, specs, strict=True)
    ]
    return jax.tree.unflatten(structure, placed)


def put_beside(params: Any, tree: Any) -> Any:
    """Copies arrays whole to the devices that parameters are bound to, if they are to any."""
    for leaf in jax.tree.leaves(params):
        if getattr(leaf, "committed", False):
            place = leaf.sharding
            if isinstance(place, NamedSharding):
                place = NamedSharding(place.mesh, P())
            # Leaf by leaf, as in `replicate`.
            return jax.tree.map(functools.partial(jax.device_put, device=place), tree)
    return tree


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes global arrays of the rows that this process loaded, as `share_of_batch` told it."""
    readers, _ = _readers(mesh)

    def put(rows: np.ndarray) -> jax.Array:
        shape = readers * len(rows), *rows.shape[1:]
        sharding = batch_sharding(mesh, rows.ndim)
        return jax.make_array_from_process_local_data(sharding, rows, shape)

    return {name: put(rows) for name, rows in batch.items()}
