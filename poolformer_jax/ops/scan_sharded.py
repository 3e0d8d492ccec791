"""Recurrences over time that is split over devices, and the steps across the borders.

Within `sharding.map_time` every device has one part of the steps. A diagonal linear recurrence over
a part is (product of a, last state from zero); those of all parts, which are small, go to every
device, and give it the state that its own part starts from. The part is then run from there, as on
a single device. The backward pass is the same recurrence from right to left.

Source: Blelloch 1990, "Prefix sums and their applications", section 1.4 (linear recurrences).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, Shaped

from poolformer_jax import sharding
from poolformer_jax.ops.planes import add, conjugate, multiply
from poolformer_jax.typing import RealOrPlanes

Run = Callable[[Any, RealOrPlanes], tuple[Any, RealOrPlanes]]
"""From (operands, state before the first step) to (outputs, last state), linear in the state."""


def steps_before(
    first: Shaped[Array, "b k *d"], own: Shaped[Array, "b t *d"]
) -> tuple[Shaped[Array, "b k *d"], Shaped[Array, "b k *d"]]:
    """The last k steps before this device's part of time, and the last k of all.

    Args:
      first: The steps before the first part.
      own: The steps of this part.
    """
    k, part = first.shape[1], sharding.time_part()
    last = own[:, -min(k, own.shape[1]) :]
    if part is None:
        return first, jnp.concatenate([first, last], axis=1)[:, -k:]
    # Of parts with fewer than k steps, the steps of several count.
    last = jax.lax.all_gather(last, sharding.SEQUENCE, axis=1, tiled=True)
    steps = jnp.concatenate([first, last], axis=1)
    start = part * min(k, own.shape[1])
    return jax.lax.dynamic_slice_in_dim(steps, start, k, axis=1), steps[:, -k:]


def time_is_split() -> bool:
    """Whether this is one of several parts of time."""
    return sharding.time_part() is not None


def count_before(first: Int[Array, ""], own: int) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Steps before this device's part of time, and after all parts.

    Args:
      first: Steps before the first part.
      own: Steps of each part.
    """
    if (part := sharding.time_part()) is None:
        return first, first + own
    return first + part * own, first + sharding.num_time_parts() * own


def scan_parts(
    run: Run, product_of: Callable[[Any], RealOrPlanes], operands: Any, h0: RealOrPlanes
) -> tuple[Any, RealOrPlanes]:
    """Runs a recurrence h_t = a_t h_{t-1} + x_t over the parts of all devices.

    Args:
      run: The recurrence over one part.
      product_of: From the operands to the product [b, c] of all a_t of a part, in float32.
      operands: Tree of arrays.
      h0: [b, c] state before the first part, in float32.

    Returns:
      (outputs of this device's part, last state of all).
    """
    if sharding.time_part() is None:
        return run(operands, h0)
    return _scan_parts(run, product_of, operands, h0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan_parts(run, product_of, operands, h0):
    return _scan_parts_forward(run, product_of, operands, h0)[0]


def _scan_parts_forward(run, product_of, operands, h0):
    product = product_of(operands)
    _, from_zero = run(operands, jax.tree.map(jnp.zeros_like, h0))
    before, last = _fold(product, from_zero, h0)
    (outputs, _), vjp = jax.vjp(run, operands, before)
    return (outputs, last), (product, vjp)


def _scan_parts_backward(run, product_of, residuals, cotangents):
    """Propagates m_t = conj(a_t) (dh_t + m_{t+1}), the cotangent of h_{t-1}, over the parts."""
    del run, product_of
    (product, vjp), (d_outputs, d_last) = residuals, cotangents
    # Every device has the last state, and a share of its cotangent.
    d_last = jax.tree.map(lambda plane: jax.lax.psum(plane, sharding.SEQUENCE), d_last)
    _, from_zero = vjp((d_outputs, jax.tree.map(jnp.zeros_like, d_last)))
    after, d_h0 = _fold(conjugate(product), from_zero, d_last, reverse=True)
    d_operands, _ = vjp((d_outputs, after))
    # The cotangents of what all devices have are added up: one of them has to hold it.
    is_first = sharding.time_part() == 0
    return d_operands, jax.tree.map(lambda plane: jnp.where(is_first, plane, 0.0), d_h0)


_scan_parts.defvjp(_scan_parts_forward, _scan_parts_backward)


def _fold(product, from_zero, start, *, reverse: bool = False):
    """Folds state <- product * state + from_zero over the parts, from the first or the last on.

    Returns:
      (the state that this device's part starts from, the state after all parts).
    """
    parts = jax.lax.all_gather((product, from_zero), sharding.SEQUENCE)

    def step(state, part):
        product, from_zero = part
        return add(multiply(product, state), from_zero), state

    end, starts = jax.lax.scan(step, start, parts, reverse=reverse, unroll=True)
    part = sharding.time_part()
    return jax.tree.map(lambda plane: plane[part], starts), end
