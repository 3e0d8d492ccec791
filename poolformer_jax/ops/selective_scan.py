"""The selective scan of Mamba: a diagonal recurrence whose decay and drive depend on the input.

The states [b, t, e, n] are n times as large as input and output, and never in memory. Time is cut
into chunks, of which only the first states are kept; the backward pass computes the other states of
one chunk after the other once more. On TPU a kernel does the same.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from poolformer_jax import sharding
from poolformer_jax.ops import scan_pallas_tpu, selective_scan_pallas_tpu
from poolformer_jax.ops.phasor import phasor
from poolformer_jax.ops.planes import add, multiply, real_product, scale
from poolformer_jax.ops.scan import ScanImplementation, scan_part
from poolformer_jax.ops.scan_sharded import scan_parts
from poolformer_jax.typing import Planes, RealOrPlanes

MAX_CHUNK = 128
"""Steps whose states are in memory at a time."""


def selective_scan(
    x: Float[Array, "b t e"],
    dt: Float[Array, "b t e"],
    *,
    maps: Float[Array, "b t m"],
    a: RealOrPlanes,
    skip: Float[Array, " e"],
    h0: RealOrPlanes,
    implementation: ScanImplementation,
) -> tuple[Float[Array, "b t e"], RealOrPlanes]:
    """Computes n states for each of e channels, which share B_t and C_t.

        h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t
        y_t = sum_n C_t h_t + D x_t     (complex: 2 Re sum_n C_t h_t + D x_t)

    Arithmetic and state are float32, whatever the type of the arrays.

    Args:
      x: Input.
      dt: Time that each step takes, in units of A's; positive.
      maps: [B_t, C_t] side by side, of n columns each; if complex, [Re B, Im B, Re C, Im C].
      a: A [e, n], as `Planes` if complex; the real part is negative.
      skip: D.
      h0: State [b, e, n] before the first step, of A's kind.
      implementation: `sequential` or `associative` within chunks of time; `pallas` and `fused` are
        the same kernel for TPU. One that `maps` has too many columns for gives way to
        `associative`.

    Returns:
      (y in x's type, the last state in float32).

    Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2; A by zero-order hold, B by Euler's rule,
    as in the released code.
    """
    if implementation in ("pallas", "fused") and maps.shape[-1] > scan_pallas_tpu.LANES:
        implementation = "associative"

    def run(operands: Any, h0: Any) -> Any:
        sequences, a = operands
        if implementation in ("pallas", "fused") and x.shape[1] > 1:
            return sharding.map_batch(_kernel, (*sequences, h0), a)
        return _portable(implementation, sequences, a, h0)

    a = _transposed(jax.tree.map(lambda plane: plane.astype(jnp.float32), a))
    y, last = scan_parts(run, _product, ((x, dt, maps), a), _transposed(h0))
    y = y.astype(jnp.float32) + skip[None, None] * x.astype(jnp.float32)
    return y.astype(x.dtype), _transposed(last)


def _kernel(rows: Any, a: Any) -> Any:
    interpret = scan_pallas_tpu.interpret_kernels()
    x, dt, maps, h0 = rows
    return selective_scan_pallas_tpu.selective_scan(x, dt, maps, a, h0, interpret=interpret)


def _product(operands: Any) -> RealOrPlanes:
    """The product [b, n, e] of all decays: exponents add up."""
    (_, dt, _), a = operands
    return _decay(jnp.sum(dt.astype(jnp.float32), axis=1), a)


def _portable(implementation, sequences, a, h0):
    """Runs chunk after chunk, each of which the backward pass computes once more."""
    (rows, t, e), planes = sequences[0].shape, len(jax.tree.leaves(a))
    count = -(-t // MAX_CHUNK)
    length = -(-t // count)

    def cut(array: Array) -> Array:
        # A step that takes no time leaves the state as it is.
        array = jnp.pad(array, ((0, 0), (0, count * length - t), (0, 0)))
        return jnp.swapaxes(array.reshape(rows, count, length, -1), 0, 1)

    def run_chunk(h, chunk):
        x, dt, maps = (array.astype(jnp.float32) for array in chunk)
        b, c = (
            Planes(*jnp.split(both, 2, axis=-1)) if planes == 2 else both
            for both in jnp.split(maps, 2, axis=-1)
        )
        run = _associative if implementation == "associative" and t > 1 else _sequential
        y, h = run((dt, dt * x, b, c), a, h)
        return h, y.astype(chunk[0].dtype)

    run_chunk = jax.checkpoint(run_chunk, prevent_cse=False)
    last, y = jax.lax.scan(run_chunk, h0, tuple(map(cut, sequences)))
    return jnp.swapaxes(y, 0, 1).reshape(rows, count * length, e)[:, :t], last


def _sequential(steps, a, h):
    @jax.checkpoint
    def advance(h, step):
        decay, drive, c = _prepare(step, a)
        h = add(multiply(decay, h), drive)
        return h, jnp.sum(real_product(h, c), axis=-2)

    time_major = jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), steps)
    h, y = jax.lax.scan(advance, h, time_major)
    return jnp.swapaxes(y, 0, 1), h


def _associative(steps, a, h):
    decay, drive, c = _prepare(steps, a)
    # A policy that saves the states of recurrences must not save these.
    states, h = scan_part("associative", "states_of_a_chunk", decay, drive, h)
    return jnp.sum(real_product(states, c), axis=-2), h


def _prepare(steps, a):
    """From steps with any leading axes to decay and drive [..., n, e], and C_t [..., n, 1]."""
    dt, dt_x, *maps = steps
    b, c = (jax.tree.map(lambda plane: plane[..., None], number) for number in maps)
    return _decay(dt, a), scale(dt_x[..., None, :], b), c


def _decay(dt: Float[Array, "*s e"], a: RealOrPlanes) -> RealOrPlanes:
    """exp(dt A), [..., n, e]."""
    exponent = scale(
        dt[..., None, :], jax.tree.map(lambda p: jnp.expand_dims(p, range(dt.ndim - 1)), a)
    )
    if isinstance(exponent, Planes):
        return scale(jnp.exp(exponent.real), phasor(exponent.imag))
    return jnp.exp(exponent)


def _transposed(number: RealOrPlanes) -> RealOrPlanes:
    """From [..., e, n] to [..., n, e] and back: channels lie along the lanes of a vector."""
    return jax.tree.map(lambda plane: jnp.swapaxes(plane, -1, -2), number)
