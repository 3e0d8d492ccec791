"""The selective scan of Mamba as a Pallas kernel for TPU, forward and backward.

Time, channels and the eight pieces of a block lie as in `scan_pallas_tpu`. The states of a channel
stand in the body of the loop over steps, which makes their decays and drives from what it reads.
B_t and C_t, the same for all channels, are copied to all lanes before. Only the states before each
block are written. The backward pass computes the states of a block once more, and keeps them on the
chip.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float

from poolformer_jax.ops.planes import add, conjugate, from_planes, multiply, real_product, scale
from poolformer_jax.ops.rg_lru_pallas_tpu import phasor
from poolformer_jax.ops.scan_pallas_tpu import (
    LANES,
    SUBLANES,
    TILES_UNROLLED,
    Layout,
    carry_through,
    loop,
)
from poolformer_jax.typing import RealOrPlanes

# Steps of a piece in the body of a loop: fewer than of a recurrence with one state.
STEPS_UNROLLED = 5

Kind = Literal["steps", "maps", "states", "row", "border"]


def selective_scan(
    x: Float[Array, "b t e"],
    dt: Float[Array, "b t e"],
    maps: Float[Array, "b t m"],
    a: RealOrPlanes,
    h0: RealOrPlanes,
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "b t e"], RealOrPlanes]:
    """Computes what `ops.selective_scan.selective_scan` does, without D.

    Args:
      x: Input, in float32 or bfloat16, as the next two.
      dt: Time that each step takes.
      maps: B_t and C_t side by side, planes side by side in each; at most 128 columns.
      a: A [n, e].
      h0: State [b, n, e] before the first step.
      interpret: Run the kernel's program on any device, without Mosaic; for tests.

    Returns:
      (y in x's type, the last state in float32).

    Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2.
    """
    planes = len(jax.tree.leaves(a))
    a, h0 = (jnp.concatenate(jax.tree.leaves(z), axis=-2).astype(jnp.float32) for z in (a, h0))
    y, last = _selective_scan(planes, interpret, x, dt, maps, a, h0)
    return y, from_planes(jnp.split(last, planes, axis=-2))


# The planes of A and of the state follow each other along their axis of states.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _selective_scan(planes, interpret, x, dt, maps, a, h0):
    return _forward(planes, interpret, x, dt, maps, a, h0)[0]


def _forward(planes, interpret, x, dt, maps, a, h0):
    layout = _layout(x, dt, maps, len(a))
    shape = len(x), layout.blocks, len(a), layout.width
    y, borders, last = _call(
        functools.partial(_run_forward, layout, planes),
        "selective_scan_forward",
        layout,
        [("steps", x), ("steps", dt), ("maps", maps), ("states", a), ("row", h0)],
        [("steps", x), ("border", jax.ShapeDtypeStruct(shape, jnp.float32)), ("row", h0)],
        tiles=3,
        interpret=interpret,
    )
    return (y, last), (x, dt, maps, a, borders)


def _backward(planes, interpret, residuals, cotangents):
    x, dt, maps, a, borders = residuals
    dy, dh_last = cotangents
    layout = _layout(x, dt, maps, len(a))
    dx, ddt, dmaps, da, dh0 = _call(
        functools.partial(_run_backward, layout, planes),
        "selective_scan_backward",
        layout,
        [
            ("steps", x), ("steps", dt), ("maps", maps), ("states", a), ("border", borders),
            ("steps", dy), ("row", dh_last),
        ],
        [
            ("steps", x), ("steps", dt), ("maps", maps.astype(jnp.float32)), ("row", dh_last),
            ("row", dh_last),
        ],
        tiles=4 + len(a),
        reverse=True,
        interpret=interpret,
    )  # fmt: skip
    return dx, ddt, dmaps.astype(maps.dtype), jnp.sum(da, axis=0), dh0


_selective_scan.defvjp(_forward, _backward)


def _layout(x: Array, dt: Array, maps: Array, states: int) -> Layout:
    """Of both passes, because one writes the states before the blocks of the other."""
    dtypes = [array.dtype for array in (x, dt, maps) for _ in range(3)]
    return Layout.of(x.shape, dtypes, scratch=maps.shape[-1] + states)


def _run_forward(
    layout, planes, x, dt, maps, a, h0, y, borders, last, carry, columns, dt_tile, u_tile, y_tile
):
    block = _Block(layout, planes, (dt_tile, u_tile, columns), a)
    pl.when(pl.program_id(1) == 0)(lambda: block.write(carry, block.read(h0)))
    state = block.read(carry)
    block.write(borders, state)
    block.load(x, dt, maps)
    _, starts, state = block.starts(state)
    block.write(carry, state)
    block.write(last, state)

    def to_output(i, rows, h):
        dt, u, b, c = block.at(i, rows)
        h = block.advance(dt, u, b, h)
        y_tile[rows, :] = sum(map(real_product, h, c))
        return h

    block.for_steps(to_output, starts)

    def write(rows):
        y[rows, block.lanes] = y_tile[rows, :].astype(y.dtype)

    block.for_tiles(write)


def _run_backward(
    layout, planes, x, dt, maps, a, borders, dy, dh_last, dx, ddt, dmaps, da, dh0,
    carry, columns, dt_tile, u_tile, dy_tile, map_tile, *state_tiles,
):  # fmt: skip
    block = _Block(layout, planes, (dt_tile, u_tile, columns), a)
    is_first_group = pl.program_id(2) == 0

    @pl.when(pl.program_id(1) == 0)  # The last block in time.
    def start():
        block.write(carry, block.read(dh_last))
        block.write(da, block.numbers([jnp.zeros((1, LANES), jnp.float32)] * len(state_tiles)))

    block.load(x, dt, maps)

    def load(rows):
        dy_tile[rows, :] = dy[rows, block.lanes].astype(jnp.float32)

    block.for_tiles(load)
    products, starts, _ = block.starts(block.read(borders))

    def keep(i, rows, h):
        # Of all pieces together, which is how they are read again.
        together = block.together(i)
        for tile, row in zip(state_tiles, block.rows(h), strict=True):
            tile[together, :] = row
        dt, u, b, _ = block.at(i, rows)
        return block.advance(dt, u, b, h)

    block.for_steps(keep, starts)

    def state_gradients(decays, dy, c, m):
        """From the cotangents m_t of the states to (g_t of the drives, m_{t-1})."""
        # y takes twice the real part of a complex product.
        dy = dy * planes
        g = [add(scale(dy, conjugate(c_n)), m_n) for c_n, m_n in zip(c, m, strict=True)]
        return g, [multiply(conjugate(d), g_n) for d, g_n in zip(decays, g, strict=True)]

    def to_start(i, rows, m):
        dt, _, _, c = block.at(i, rows)
        return state_gradients(block.decays(dt), dy_tile[rows, :], c, m)[1]

    m = block.for_steps(to_start, block.zeros(), reverse=True)
    m, before = block.carry_through(list(map(conjugate, products)), m, block.read(carry), True)
    block.write(carry, before)
    block.write(dh0, before)

    def to_gradients(i, rows, sums):
        m, da = sums
        together = block.together(i)
        dt, u, b, c = block.at(i, rows)
        dy, decays = dy_tile[rows, :], block.decays(dt)
        h_before = block.numbers([tile[together, :] for tile in state_tiles])
        h = [
            add(multiply(*number), scale(u, b_n))
            for *number, b_n in zip(decays, h_before, b, strict=True)
        ]
        g, m = state_gradients(decays, dy, c, m)
        db = [scale(u, g_n) for g_n in g]
        dc = [scale(dy * planes, conjugate(h_n)) for h_n in h]
        # The gradients of dt_t A.
        exponents = [multiply(m_n, conjugate(h_n)) for m_n, h_n in zip(m, h_before, strict=True)]
        map_tile[rows, :] = _side_by_side(block.rows(db) + block.rows(dc))
        u_tile[rows, :] = _sum_of_products(g, b)
        dt_tile[rows, :] = _sum_of_products(exponents, block.a)
        return m, [add(sum_n, scale(dt, d_n)) for sum_n, d_n in zip(da, exponents, strict=True)]

    _, totals = block.for_steps(to_gradients, (m, block.zeros()), reverse=True)
    totals = jax.tree.map(lambda total: jnp.sum(total, axis=0, keepdims=True), totals)
    block.write(da, list(map(add, block.read(da), totals)))

    def write(rows):
        du, lanes = u_tile[rows, :], block.lanes
        dx[rows, lanes] = (dt[rows, lanes].astype(jnp.float32) * du).astype(dx.dtype)
        direct = x[rows, lanes].astype(jnp.float32) * du
        ddt[rows, lanes] = (dt_tile[rows, :] + direct).astype(ddt.dtype)
        others = jnp.where(is_first_group, 0.0, dmaps[rows, :])
        dmaps[rows, :] = others + map_tile[rows, : dmaps.shape[-1]]

    block.for_tiles(write)


class _Block:
    """The current block of steps and group of 128 channels.

    A number is a real array or `Planes`; there is a list of them, one for each state.

    Attributes:
      lanes: The channels of the group.
      a: A, numbers [1, 128].
    """

    def __init__(self, layout: Layout, planes: int, tiles: Sequence[Any], a: Any):
        self.layout, self.planes, self.tiles = layout, planes, tiles
        self.steps = layout.block // SUBLANES
        one = layout.width == LANES
        self.lanes = pl.ds(0 if one else pl.multiple_of(pl.program_id(2) * LANES, LANES), LANES)
        self.a = self.read(a)

    def numbers(self, rows: Sequence[Array]) -> list[Any]:
        """From all real parts, and all imaginary parts after them."""
        count = len(rows) // self.planes
        return [from_planes(rows[i::count]) for i in range(count)]

    def rows(self, numbers: Sequence[Any]) -> list[Array]:
        """The opposite."""
        return [row for plane in zip(*map(jax.tree.leaves, numbers), strict=True) for row in plane]

    def zeros(self) -> list[Any]:
        """Of all pieces, [8, 128]."""
        return jax.tree.map(lambda _: jnp.zeros((SUBLANES, LANES), jnp.float32), self.a)

    def read(self, ref: Any) -> list[Any]:
        """Numbers [1, 128]."""
        return self.numbers([ref[i : i + 1, self.lanes] for i in range(ref.shape[0])])

    def write(self, ref: Any, numbers: Sequence[Any]) -> None:
        """Writes them."""
        for i, row in enumerate(self.rows(numbers)):
            ref[i : i + 1, self.lanes] = row

    def load(self, x: Any, dt: Any, maps: Any) -> None:
        """Copies dt_t, dt_t x_t and the maps to where they can be read with a stride.

        A column of the maps goes to all 128 lanes. That takes longer than the arithmetic of a pass,
        and is done once for all passes and channels.
        """
        dt_tile, u_tile, columns = self.tiles

        def copy(rows):
            times = dt[rows, self.lanes].astype(jnp.float32)
            dt_tile[rows, :] = times
            u_tile[rows, :] = times * x[rows, self.lanes].astype(jnp.float32)

        def spread(rows):
            values = maps[rows, :].astype(jnp.float32)
            for q in range(maps.shape[-1]):
                tile = jnp.broadcast_to(values[:, q : q + 1], (self.layout.tile, LANES))
                columns[pl.ds(rows.start + q * self.layout.block, self.layout.tile), :] = tile

        self.for_tiles(copy)
        pl.when(pl.program_id(2) == 0)(lambda: self.for_tiles(spread, unrolled=2))

    def at(self, i: Any, rows: Any) -> tuple[Array, Array, list[Any], list[Any]]:
        """dt_t, dt_t x_t, B_t and C_t of a step of all pieces, all [8, 128]."""
        dt_tile, u_tile, columns = self.tiles
        count = self.planes * len(self.a)
        b, c = ([columns[self.column(q + j, i), :] for q in range(count)] for j in (0, count))
        return dt_tile[rows, :], u_tile[rows, :], self.numbers(b), self.numbers(c)

    def column(self, q: int, i: Any) -> Any:
        """Where row i of all pieces of a column of the maps is."""
        return pl.ds(q * self.layout.block + i, SUBLANES, self.steps)

    def decays(self, dt: Array) -> list[Any]:
        """exp(dt A)."""
        if self.planes == 1:
            return [jnp.exp(dt * a) for a in self.a]
        return [scale(jnp.exp(dt * a.real), phasor(dt * a.imag)) for a in self.a]

    def advance(self, dt: Array, u: Array, b: Sequence[Any], h: Sequence[Any]) -> list[Any]:
        """The next states."""
        return [
            add(multiply(decay, h_n), scale(u, b_n))
            for decay, h_n, b_n in zip(self.decays(dt), h, b, strict=True)
        ]

    def starts(self, state: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """From the state before the block to what is known of each piece.

        Returns:
          (products of all decays, states before the first step; the state after the block).
        """

        def to_end(i, rows, carry):
            total, h = carry
            dt, u, b, _ = self.at(i, rows)
            return total + dt, self.advance(dt, u, b, h)

        zero = jnp.zeros((SUBLANES, LANES), jnp.float32)
        total, ends = self.for_steps(to_end, (zero, self.zeros()))
        products = self.decays(total)
        return products, *self.carry_through(products, ends, state, False)

    def carry_through(self, products, ends, state, reverse) -> tuple[list[Any], list[Any]]:
        """See `scan_pallas_tpu.carry_through`."""
        carry = functools.partial(carry_through, reverse=reverse)
        starts, after = zip(*map(carry, products, ends, state), strict=True)
        return list(starts), list(after)

    def for_tiles(self, body: Callable[[Any], None], unrolled: int = TILES_UNROLLED) -> None:
        """Calls body(rows) for all tiles of rows."""
        tile = self.layout.tile

        def at(i, carry):
            body(pl.ds(pl.multiple_of(i * tile, tile), tile))
            return carry

        loop(self.layout.block // tile, at, (), unrolled)

    def for_steps(self, body: Callable[..., Any], carry: Any, *, reverse: bool = False) -> Any:
        """Carries through body(i, rows i of all pieces, carry)."""

        def at(i, carry):
            i = self.steps - 1 - i if reverse else i
            return body(i, pl.ds(i, SUBLANES, self.steps), carry)

        return loop(self.steps, at, carry, STEPS_UNROLLED)

    def together(self, i: Any) -> Any:
        """Where rows i of all pieces are kept in an array of their own."""
        return pl.ds(pl.multiple_of(i * SUBLANES, SUBLANES), SUBLANES)


def _side_by_side(columns: Sequence[Array]) -> Array:
    """Sums [8, 128] over channels, and puts each sum into a column."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (SUBLANES, LANES), 1)
    tile = jnp.zeros((SUBLANES, LANES), jnp.float32)
    for i, column in enumerate(columns):
        tile = jnp.where(lane == i, jnp.sum(column, axis=1, keepdims=True), tile)
    return tile


def _sum_of_products(a: Sequence[Any], b: Sequence[Any]) -> Array:
    """The products of all planes."""
    products = map(jnp.multiply, jax.tree.leaves(a), jax.tree.leaves(b))
    return functools.reduce(jnp.add, products)


def _call(
    kernel: Callable[..., None],
    name: str,
    layout: Layout,
    inputs: Sequence[tuple[Kind, Array]],
    outputs: Sequence[tuple[Kind, Any]],
    *,
    tiles: int,
    reverse: bool = False,
    interpret: bool,
) -> list[Array]:
    """Runs a kernel over (rows of the batch, blocks of time, groups of 128 channels).

    Args:
      kernel: Of references to inputs, to outputs, to the state that is carried, to tiles for all
        columns of the maps below each other, and to more tiles.
      name: As profiles show it.
      layout: Blocks.
      inputs: Arrays, padded with zeros here; a step with dt = 0 leaves the state as it is.
      outputs: Arrays of the shapes and types that are returned.
      tiles: Float32 blocks of 128 channels to work in.
      reverse: Whether time runs from right to left.
      interpret: See `selective_scan`.
    """
    b, blocks, width = layout.batch, layout.blocks, layout.width

    def padded(kind: Kind, array: Any) -> tuple[int, ...]:
        match kind:
            case "steps":
                return b, blocks * layout.block, width
            case "maps":
                return b, blocks * layout.block, array.shape[-1]
            case _:
                return *array.shape[:-1], width

    def spec(kind: Kind, array: Any) -> pl.BlockSpec:
        def at(t):
            return blocks - 1 - t if reverse else t

        *_, rows, columns = padded(kind, array)
        match kind:
            case "steps" | "maps":
                return pl.BlockSpec((None, layout.block, columns), lambda i, t, j: (i, at(t), 0))
            case "states":
                return pl.BlockSpec((rows, columns), lambda i, t, j: (0, 0))
            case "row":
                return pl.BlockSpec((None, rows, columns), lambda i, t, j: (i, 0, 0))
            case "border":
                return pl.BlockSpec((None, None, rows, columns), lambda i, t, j: (i, at(t), 0, 0))

    def pad(kind: Kind, array: Array) -> Array:
        wanted = padded(kind, array)
        return jnp.pad(array, [(0, n - m) for n, m in zip(wanted, array.shape, strict=True)])

    arrays: list[Any] = [pad(*pair) for pair in inputs]
    shapes = [jax.ShapeDtypeStruct(padded(*pair), pair[1].dtype) for pair in outputs]
    named = dict(inputs)
    states, columns = len(named["states"]), named["maps"].shape[-1]
    results = pl.pallas_call(
        kernel,
        grid=(b, blocks, width // LANES),
        in_specs=[spec(*pair) for pair in inputs],
        out_specs=[spec(*pair) for pair in outputs],
        out_shape=shapes,
        scratch_shapes=[
            pltpu.VMEM((states, width), jnp.float32),
            pltpu.VMEM((columns * layout.block, LANES), jnp.float32),
            *[pltpu.VMEM((layout.block, LANES), jnp.float32)] * tiles,
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary")
        ),
        cost_estimate=pl.CostEstimate(
            flops=(30 if reverse else 10) * states * b * layout.time * width,
            transcendentals=(4 if reverse else 2) * states * b * layout.time * width,
            bytes_accessed=sum(z.size * z.dtype.itemsize for z in [*arrays, *shapes]),
        ),
        interpret=interpret,
        name=name,
    )(*arrays)
    return [
        result[tuple(slice(n) for n in array.shape)]
        for result, (_, array) in zip(results, outputs, strict=True)
    ]
