"""Linear recurrences as Pallas kernels for TPU, and the bare recurrence among them.

A kernel reads its inputs from HBM once and writes its outputs once, which is all that a recurrence
can save: it is bound by memory traffic. Everything between stays on the chip, the state in float32.

Time is cut into blocks, visited in order (in the backward pass in reverse), with the state carried
from one to the next. Time lies along the 8 sublanes of a vector register and channels along its 128
lanes. A single chain of steps would wait for each multiplication, and use one sublane of eight. So
a block is cut again into 8 pieces, one a sublane, that advance together, in three passes:

1. the state at the end of each piece, started from 0, and the product of its decays;
2. eight steps that carry the state through the pieces, which yields the state each starts from;
3. the steps once more, from there.

`run_forward` and `run_backward` are the frame; a recurrence fills in how a_t and x_t come from
what is read (`prepare`, `decay`) and what becomes of the gradient (`finish`). Both work on tiles of
rows x 128 channels in float32, as real arrays or `Planes`.

The backward pass of h_t = a_t h_{t-1} + x_t with cotangents dh_t runs from right to left:
g_t = dh_t + m_{t+1} and m_t = conj(a_t) g_t, where g_t is the gradient of x_t. It starts from the
cotangent of the last state, and the m it ends with is the gradient of h0.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from poolformer_jax.ops.planes import add, conjugate, from_planes, multiply
from poolformer_jax.typing import Planes

LANES, SUBLANES = 128, 8
# Of all blocks in VMEM, each of which is there twice (one is computed, the next one loaded). The
# compiler allows 16 MiB on v5e; the float32 scratch of a block comes on top.
BLOCK_BYTES = 12 * 2**20
MAX_BLOCK = 1024
# Steps of a piece, and tiles of rows, in the body of a loop: enough to hide latency, and still code
# that compiles in seconds.
STEPS_UNROLLED, TILES_UNROLLED = 10, 10

Kind = Literal["block", "tile_before", "row", "parameter"]


def interpret_kernels() -> bool:
    """Whether kernels run as plain programs, on any device; tests replace this function."""
    return False


def scan(a: Any, x: Any, h0: Any, *, interpret: bool = False) -> tuple[Any, Any]:
    """Computes h_t = a_t h_{t-1} + x_t along time, as `linear_scan` does.

    Args:
      a: [b, t, c] decay, an array or `Planes`, in float32 or bfloat16.
      x: [b, t, c] input, of a's kind.
      h0: [b, c] state before the first step, of a's kind, in float32.
      interpret: Run the kernel's program on any device, without Mosaic; for tests.

    Returns:
      (all states in x's type, the last state in float32).
    """
    return _scan(interpret, a, x, h0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(interpret, a, x, h0):
    return _scan_forward(interpret, a, x, h0)[0]


def _scan_forward(interpret, a, x, h0):
    planes, structure = jax.tree.flatten(x)
    count, dtypes = len(planes), [plane.dtype for plane in jax.tree.leaves((a, x, x))]
    h, h_last = run_forward(
        lambda *read: (from_planes(read[:count]), from_planes(read[count:])),
        # Where there is nothing to read, a = 1 and x = 0 leave the state as it is.
        [*_padded_by_one(a), *((plane, 0.0) for plane in planes)],
        [],
        side_by_side(h0),
        name="scan_forward",
        layout=Layout.of(planes[0].shape, dtypes),
        states=[(1, plane.dtype) for plane in planes],
        interpret=interpret,
    )
    h = jax.tree.unflatten(structure, h)
    return (h, split(h_last, count)), (a, h, h0)


def _scan_backward(interpret, residuals, cotangents):
    a, h, h0 = residuals
    dh, dh_last = cotangents
    structure, count = jax.tree.structure(a), len(jax.tree.leaves(a))
    outputs = jax.tree.leaves((a, dh))
    gradients, _, dh0 = run_backward(
        lambda *read: (from_planes(read),),
        lambda *read: ([multiply(read[-2], conjugate(read[-1])), read[-2]], []),
        _padded_by_one(a),
        [],
        jax.tree.leaves(h),
        side_by_side(h0),
        jax.tree.leaves(dh),
        side_by_side(dh_last),
        name="scan_backward",
        layout=Layout.of(
            outputs[0].shape, [plane.dtype for plane in [*outputs, *jax.tree.leaves((a, h, dh))]]
        ),
        gradients=[(1, plane.dtype) for plane in outputs],
        interpret=interpret,
    )
    da, dx = (jax.tree.unflatten(structure, g) for g in (gradients[:count], gradients[count:]))
    return da, dx, split(dh0, count)


_scan.defvjp(_scan_forward, _scan_backward)


def _padded_by_one(a) -> list[tuple[Array, float]]:
    return list(zip(jax.tree.leaves(a), (1.0, 0.0), strict=False))


def side_by_side(state: Any) -> Array:
    """From a state [b, c] to its planes as [b, k c]."""
    return jnp.concatenate(jax.tree.leaves(state), axis=-1)


def split(state: Array, planes: int) -> Any:
    """The opposite of `side_by_side`."""
    return from_planes(jnp.split(state, planes, axis=-1))


def run_forward(
    prepare: Callable[..., tuple[Any, Any]],
    sequences: Sequence[tuple[Array, float]],
    parameters: Sequence[Array],
    h0: Array,
    *,
    name: str,
    layout: Layout,
    states: Sequence[tuple[int, DTypeLike]],
    interpret: bool,
) -> tuple[list[Array], Array]:
    """Computes the states of a recurrence.

    Args:
      prepare: From tiles of all planes of the sequences, and from the parameters, to (a, x).
      sequences: Arrays [b, t, k c], k planes side by side, and what pads them; padding must leave
        the state as it is.
      parameters: [c], in float32.
      h0: State before the first step [b, k c] in float32.
      name: Of the kernel, as profiles show it.
      layout: Blocks.
      states: Number of planes and type of each array that the states are written to.
      interpret: See `scan`.

    Returns:
      (arrays of states [b, t, k c], the last state [b, k c] in float32).
    """
    planes = h0.shape[-1] // layout.channels

    def kernel(sequences, parameters, h0, states, h_last, carry, a_tiles, x_tiles):
        view = _View(layout)
        constants = view.read(parameters)
        pl.when(pl.program_id(1) == 0)(lambda: view.write([carry], view.read(h0)))

        def read_tile(rows):
            a, x = prepare(*view.read(sequences, rows), *constants)
            _store(a_tiles, rows, a)
            _store(x_tiles, rows, x)

        view.for_tiles(read_tile)
        h = _scan_block(a_tiles, x_tiles, from_planes(view.read([carry])), reverse=False)
        view.write([carry], h)
        view.write(h_last, h)
        view.for_tiles(lambda rows: view.write(states, _load(x_tiles, rows), rows))

    h, (h_last,) = _call(
        kernel,
        name,
        layout,
        [
            ("block", [layout.pad(array, fill) for array, fill in sequences]),
            ("parameter", [layout.pad(array[None, None]) for array in parameters]),
            ("row", [layout.pad(h0[:, None])]),
        ],
        [("block", states), ("row", [(planes, jnp.float32)])],
        scratch=(planes, planes),
        interpret=interpret,
    )
    return h, h_last[:, 0]


def run_backward(
    decay: Callable[..., tuple[Any, ...]],
    finish: Callable[..., tuple[Any, list[Array]]],
    sequences: Sequence[tuple[Array, float]],
    parameters: Sequence[Array],
    states: Sequence[Array],
    h0: Array,
    cotangents: Sequence[Array],
    dh_last: Array,
    *,
    name: str,
    layout: Layout,
    gradients: Sequence[tuple[int, DTypeLike]],
    kept: int = 0,
    interpret: bool,
) -> tuple[list[Array], list[Array], Array]:
    """Computes the gradients of a recurrence.

    Args:
      decay: From tiles of all planes of the sequences, and from the parameters, to a, and to tiles
        to keep for `finish`.
      finish: From what `decay` has and then (conj(a_t), the gradient g_t of x_t, h_{t-1}, what was
        kept), to (tiles of the gradients, terms whose sums over time are the parameters'
        gradients).
      sequences: As in `run_forward`.
      parameters: As there.
      states: What `run_forward` returned.
      h0: State before the first step.
      cotangents: Of the states.
      dh_last: Of the last state.
      name: Of the kernel, as profiles show it.
      layout: Blocks.
      gradients: Number of planes and type of each array that the gradients are written to.
      kept: Number of tiles that `decay` keeps.
      interpret: See `scan`.

    Returns:
      (gradients [b, t, k c], those of the parameters [c], that of h0 [b, k c]).
    """
    planes = h0.shape[-1] // layout.channels
    tile_shape = (layout.tile, LANES)

    def kernel(
        sequences, parameters, states, tiles_before, h0, cotangents, dh_last,
        gradients, sums, dh0, carry, a_tiles, g_tiles, kept_tiles,
    ):  # fmt: skip
        view = _View(layout)
        constants = view.read(parameters)

        @pl.when(pl.program_id(1) == 0)  # The last block in time.
        def _():
            view.write([carry], view.read(dh_last))
            view.write(sums, [jnp.zeros((1, LANES), jnp.float32)] * len(sums))

        def read_tile(rows):
            a, *keep = decay(*view.read(sequences, rows), *constants)
            _store(a_tiles, rows, conjugate(a))
            _store(kept_tiles, rows, keep)
            _store(g_tiles, rows, from_planes(view.read(cotangents, rows)))

        view.for_tiles(read_tile)
        m = _scan_block(a_tiles, g_tiles, from_planes(view.read([carry])), reverse=True)
        view.write([carry], m)
        view.write(dh0, m)

        def write_tile(rows, h_before, totals):
            h = view.read(states, rows)
            # Forward in time: a row comes from the row above, the first one from the tile before.
            is_top = jax.lax.broadcasted_iota(jnp.int32, tile_shape, 0) == 0
            h_before = [
                jnp.where(is_top, row, pltpu.roll(plane, 1, 0))
                for row, plane in zip(h_before, h, strict=True)
            ]
            tiles, terms = finish(
                *view.read(sequences, rows),
                *constants,
                _load(a_tiles, rows),
                _load(g_tiles, rows),
                from_planes(h_before),
                *(tile[rows, :] for tile in kept_tiles),
            )
            view.write(gradients, tiles, rows)
            return [plane[layout.tile - 1 :] for plane in h], add(totals, terms)

        is_first = pl.program_id(1) == pl.num_programs(1) - 1
        before = view.read(tiles_before, pl.ds(layout.tile - 1, 1))
        before = [jnp.where(is_first, *rows) for rows in zip(view.read(h0), before, strict=True)]
        zeros = [jnp.zeros(tile_shape, jnp.float32)] * len(sums)
        _, totals = view.for_tiles(write_tile, before, zeros)
        totals = [jnp.sum(total, axis=0, keepdims=True) for total in totals]
        view.write(sums, add(view.read(sums), totals))

    padded = [layout.pad(array) for array in states]
    outputs, sums, (dh0,) = _call(
        kernel,
        name,
        layout,
        [
            ("block", [layout.pad(array, fill) for array, fill in sequences]),
            ("parameter", [layout.pad(array[None, None]) for array in parameters]),
            ("block", padded),
            ("tile_before", padded),
            ("row", [layout.pad(h0[:, None])]),
            ("block", [layout.pad(array) for array in cotangents]),
            ("row", [layout.pad(dh_last[:, None])]),
        ],
        [
            ("block", gradients),
            ("row", [(1, jnp.float32)] * len(parameters)),
            ("row", [(planes, jnp.float32)]),
        ],
        scratch=(planes, planes, kept),
        reverse=True,
        interpret=interpret,
    )
    return outputs, [jnp.sum(array[:, 0], axis=0) for array in sums], dh0[:, 0]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the arrays of a kernel are cut into blocks.

    Attributes:
      batch: Rows of the batch, b.
      time: Steps, t.
      channels: Channels, c; an array [b, t, k c] has k planes side by side.
      tile: Steps that are read and written at a time.
      block: Steps of a block.
    """

    batch: int
    time: int
    channels: int
    tile: int
    block: int

    @classmethod
    def of(cls, shape: tuple[int, ...], dtypes: Sequence[DTypeLike], *, scratch: int = 0) -> Layout:
        """Chooses blocks for [b, t, c].

        Args:
          shape: These three.
          dtypes: Types of all planes read and written.
          scratch: Float32 tiles of 128 channels beyond the usual few, for each step of a block.
        """
        batch, time, channels = shape
        sizes = [jnp.dtype(dtype).itemsize for dtype in dtypes]
        tile = SUBLANES * 4 // min(sizes)  # Two rows of a 16-bit type share a sublane.
        row_bytes = (2 * sum(sizes) * -(-channels // LANES) + 4 * scratch) * LANES
        most = min(MAX_BLOCK, BLOCK_BYTES // row_bytes)
        return cls(batch, time, channels, tile, _block_length(time, tile, max(most, tile)))

    @property
    def blocks(self) -> int:
        """Blocks along time."""
        return -(-self.time // self.block)

    @property
    def width(self) -> int:
        """Channels of whole vector registers."""
        return -(-self.channels // LANES) * LANES

    def pad(self, array: Array, fill: float = 0.0) -> Array:
        """Pads [b, t, k c] to whole blocks, and [b, 1, k c] to whole registers, plane by plane."""
        b, t, columns = array.shape
        rows = self.blocks * self.block - t if t == self.time else 0
        lanes = self.width - self.channels
        if lanes:
            array = array.reshape(b, t, columns // self.channels, self.channels)
            array = jnp.pad(array, [(0, 0)] * 3 + [(0, lanes)], constant_values=fill)
            array = array.reshape(b, t, -1)
        if rows:
            array = jnp.pad(array, [(0, 0), (0, rows), (0, 0)], constant_values=fill)
        return array

    def trim(self, array: Array) -> Array:
        """The opposite of `pad`."""
        array = array[:, : self.time]
        if self.width != self.channels:
            planes = array.reshape(*array.shape[:2], -1, self.width)
            array = planes[..., : self.channels].reshape(*array.shape[:2], -1)
        return array


def _block_length(time: int, tile: int, most: int) -> int:
    """The longest block, up to `most` steps, of those that pad the least.

    Row i of all eight pieces is read at once. If the length of a piece were a multiple of 8, all of
    these rows would lie in one bank of the memory.
    """
    best = (2 * time + 8 * tile, 0)
    fewest = -(-time // most)
    for count in range(fewest, 2 * fewest + 2):
        block = -(-time // (count * tile)) * tile
        if block // SUBLANES % SUBLANES == 0:
            block += tile
        if block <= max(most, tile) and count * block < best[0]:
            best = (count * block, block)
    return best[1]


def _call(
    kernel: Callable[..., None],
    name: str,
    layout: Layout,
    inputs: Sequence[tuple[Kind, Sequence[Array]]],
    outputs: Sequence[tuple[Kind, Sequence[tuple[int, DTypeLike]]]],
    *,
    scratch: tuple[int, ...],
    reverse: bool = False,
    interpret: bool,
) -> Any:
    """Runs a kernel over (rows of the batch, blocks of time, groups of 128 channels).

    It is called with a list of references for each group of inputs and of outputs, and then with
    scratch: the state that is carried [1, k c], and lists of blocks of 128 channels, first for a_t
    and x_t. Only such narrow float32 arrays can be read with a stride.
    """
    b, blocks, width = layout.batch, layout.blocks, layout.width

    def spec(kind: Kind, columns: int) -> pl.BlockSpec:
        def at(t):
            return blocks - 1 - t if reverse else t

        match kind:
            case "block":
                return pl.BlockSpec((None, layout.block, columns), lambda i, t, j: (i, at(t), 0))
            case "tile_before":
                tiles = layout.block // layout.tile
                return pl.BlockSpec(
                    (None, layout.tile, columns),
                    lambda i, t, j: (i, jnp.maximum(at(t) * tiles - 1, 0), 0),
                )
            case "row":
                return pl.BlockSpec((None, 1, columns), lambda i, t, j: (i, 0, 0))
            case "parameter":
                return pl.BlockSpec((None, 1, columns), lambda i, t, j: (0, 0, 0))

    def shape(kind: Kind, planes: int, dtype: DTypeLike) -> jax.ShapeDtypeStruct:
        steps = blocks * layout.block if kind == "block" else 1
        return jax.ShapeDtypeStruct((b, steps, planes * width), dtype)

    arrays = [list(group) for _, group in inputs]
    shapes = [[shape(kind, *output) for output in group] for kind, group in outputs]
    moved = sum(array.size * array.dtype.itemsize for array in jax.tree.leaves((arrays, shapes)))
    tile = pltpu.VMEM((layout.block, LANES), jnp.float32)
    results = pl.pallas_call(
        kernel,
        grid=(b, blocks, width // LANES),
        in_specs=[[spec(kind, a.shape[-1]) for a in group] for kind, group in inputs],
        out_specs=[
            [spec(kind, s.shape[-1]) for s in group]
            for (kind, _), group in zip(outputs, shapes, strict=True)
        ],
        out_shape=shapes,
        scratch_shapes=[
            pltpu.VMEM((1, scratch[0] * width), jnp.float32),
            *([tile] * count for count in scratch),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary")
        ),
        cost_estimate=pl.CostEstimate(
            flops=100 * b * layout.time * width,
            transcendentals=5 * b * layout.time * width,
            bytes_accessed=moved,
        ),
        interpret=interpret,
        name=name,
    )(*arrays)
    return [[layout.trim(array) for array in group] for group in results]


class _View:
    """Tiles of the current group of 128 channels, in references to planes side by side."""

    def __init__(self, layout: Layout):
        self.layout = layout
        # Of the one group that most models have, the start is known while compiling.
        one = layout.width == LANES
        self.start = 0 if one else pl.multiple_of(pl.program_id(2) * LANES, LANES)

    def read(self, refs, rows=slice(None)) -> list[Array]:
        """Reads all planes in float32."""
        return [ref[rows, lanes].astype(jnp.float32) for ref, lanes in self._planes(refs)]

    def write(self, refs, values: Any, rows=slice(None)) -> None:
        """Writes the leaves of a tree as planes of the references' types."""
        for (ref, lanes), value in zip(self._planes(refs), jax.tree.leaves(values), strict=True):
            ref[rows, lanes] = value.astype(ref.dtype)

    def _planes(self, refs) -> list[tuple[Any, Any]]:
        width = self.layout.width
        return [
            (ref, pl.ds(plane * width + self.start, LANES))
            for ref in refs
            for plane in range(ref.shape[-1] // width)
        ]

    def for_tiles(self, body: Callable[..., Any], *carry: Any) -> Any:
        """Calls body(rows, *carry) -> carry for all tiles of a block, in order."""
        tile = self.layout.tile

        def at(i, carry):
            return body(pl.ds(pl.multiple_of(i * tile, tile), tile), *carry) or ()

        return loop(self.layout.block // tile, at, carry, TILES_UNROLLED)


def _scan_block(a_tiles, x_tiles, state: Any, *, reverse: bool) -> Any:
    """Replaces x_t by the states of a block, or dh_t by g_t in reverse; returns the state after."""
    steps = a_tiles[0].shape[0] // SUBLANES

    def advance(i, state):
        rows = pl.ds(steps - 1 - i if reverse else i, SUBLANES, steps)
        a, x = _load(a_tiles, rows), _load(x_tiles, rows)
        if reverse:
            output = add(x, state)
            return rows, a, output, multiply(a, output)
        output = add(multiply(a, state), x)
        return rows, a, output, output

    def to_end(i, carry):
        product, end = carry
        _, a, _, end = advance(i, end)
        return multiply(a, product), end

    zero = jax.tree.map(lambda _: jnp.zeros((SUBLANES, LANES), jnp.float32), state)
    one = jax.tree.map(jnp.ones_like, zero)
    if isinstance(one, Planes):
        one = Planes(one.real, zero.real)
    product, end = loop(steps, to_end, (one, zero), STEPS_UNROLLED)
    start, state = carry_through(product, end, state, reverse=reverse)

    def to_states(i, state):
        rows, _, output, state = advance(i, state)
        _store(x_tiles, rows, output)
        return state

    loop(steps, to_states, start, STEPS_UNROLLED)
    return state


def carry_through(product: Any, end: Any, state: Any, *, reverse: bool) -> tuple[Any, Any]:
    """Carries a state [1, 128] through the pieces of a block.

    Args:
      product: Of the decays of each piece, [8, 128].
      end: The state that each piece ends with, started from 0.
      state: Before the first piece, or after the last one in reverse.
      reverse: Whether time runs from right to left.

    Returns:
      (the state that each piece starts from, the state after all).
    """
    starts = [state] * SUBLANES
    for piece in reversed(range(SUBLANES)) if reverse else range(SUBLANES):
        starts[piece] = state
        row = functools.partial(jax.tree.map, lambda plane, i=piece: plane[i : i + 1])
        state = add(multiply(row(product), state), row(end))
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *starts), state


def loop(count: int, body: Callable[..., Any], carry: Any, unrolled: int) -> Any:
    """Carries through body(i, carry) for i < count, several turns in each turn of the loop."""

    def turns(first, number, carry):
        for i in range(number):
            carry = body(first + i, carry)
        return carry

    whole = count // unrolled
    if whole:
        carry = jax.lax.fori_loop(0, whole, lambda i, c: turns(i * unrolled, unrolled, c), carry)
    return turns(whole * unrolled, count % unrolled, carry)


def _load(tiles, rows) -> Any:
    return from_planes([tile[rows, :] for tile in tiles])


def _store(tiles, rows, value: Any) -> None:
    for tile, plane in zip(tiles, jax.tree.leaves(value), strict=True):
        tile[rows, :] = plane
