"""Diagonal linear recurrences h_t = a_t h_{t-1} + x_t, real or complex.

One entry, `linear_scan`, for whole sequences, and `linear_step` for one step. Complex values are
`Planes` (separate real and imaginary arrays). Everything accumulates in float32.

The gradient is written by hand, because the backward pass of a linear recurrence is the same
recurrence run from right to left. Differentiating through `jax.lax.associative_scan` instead
keeps every level of its tree in memory and compiles several times more slowly.
"""

from __future__ import annotations

import functools
from typing import Literal, TypeVar, assert_never, cast

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from poolformer_jax.config_checks import Platform
from poolformer_jax.typing import Planes, RealOrPlanes

ScanImplementation = Literal["associative", "sequential"]
T = TypeVar("T", bound=RealOrPlanes)

# XLA starts each operation of a loop's body as a task, which takes longer than its arithmetic.
_loop = functools.partial(jax.lax.fori_loop, unroll=2)

SCAN_STATES = "scan_states"
"""Name of the states among what a policy of `jax.checkpoint` may save."""


def choose_implementation(
    name: ScanImplementation | Literal["auto"], platform: Platform
) -> ScanImplementation:
    """Resolves `auto` for a platform named by the configuration.

    The logarithmic-depth associative scan pays off where thousands of lanes wait for work (TPU,
    GPU). A CPU is faster with the plain loop, which does half the arithmetic. The platform is an
    argument, never `jax.devices()`, so that a program can be compiled for a machine that is not
    there.
    """
    if name != "auto":
        return name
    return "sequential" if platform == "cpu" else "associative"


def linear_step(a: T, x: T, h: T) -> T:
    """Computes one step, a * h + x, in float32.

    Args:
      a: Decay, any shape; an array or `Planes`.
      x: Input, of a's shape and kind.
      h: Previous state, of a's shape and kind.

    Returns:
      The next state in float32.
    """
    a, x, h = _to_float32(a), _to_float32(x), _to_float32(h)
    return _add(_multiply(a, h), x)


def linear_scan(
    a: T, x: T, *, h0: T | None = None, implementation: ScanImplementation = "associative"
) -> tuple[T, T]:
    """Computes h_t = a_t * h_{t-1} + x_t along time.

    Args:
      a: [b, t, c] decay per step, |a| <= 1 (unitless); an array, or `Planes` if complex.
      x: [b, t, c] gated, normalised input, of a's kind.
      h0: [b, c] state before the first step, of a's kind; zeros if None.
      implementation: `associative` (a tree of depth log t) or `sequential` (a loop). The same
        result up to rounding; they differ in memory and speed.

    Returns:
      (all states h [b, t, c] in x's dtype, last state [b, c] in float32).

    Raises:
      ValueError: If kinds or shapes differ, or t is 0.

    Source: De et al. 2024, arXiv:2402.19427, eq. 4; Gallo Fernandez 2025, arXiv:2510.02206.
    """
    if isinstance(a, Planes) != isinstance(x, Planes):
        raise ValueError("a and x must be both real arrays or both Planes (complex)")
    a_shapes, x_shapes = _shapes(a), _shapes(x)
    if a_shapes != x_shapes or any(len(shape) != 3 for shape in x_shapes):
        raise ValueError(
            f"a and x must have one common shape [b, t, c]; got {a_shapes} and {x_shapes}"
        )
    b, t, c = x_shapes[0]
    if t == 0:
        raise ValueError("cannot scan a sequence of 0 steps; feed at least one")
    if h0 is None:
        h0 = cast(T, jax.tree.map(lambda plane: jnp.zeros((b, c), jnp.float32), x))
    elif _shapes(h0) != [(b, c)] * len(x_shapes):
        raise ValueError(
            f"h0 must have shape {(b, c)} and the kind of x {x_shapes}; got {_shapes(h0)}"
        )
    dtype = jax.tree.leaves(x)[0].dtype
    if t == 1:  # Streaming: nothing to scan over.
        first = functools.partial(jax.tree.map, lambda plane: plane[:, 0])
        h_last = linear_step(first(a), first(x), h0)
        return jax.tree.map(lambda plane: plane[:, None].astype(dtype), h_last), h_last
    h, h_last = _scan(implementation, _to_float32(a), _to_float32(x), _to_float32(h0))
    return jax.tree.map(lambda plane: plane.astype(dtype), h), h_last


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(implementation, a, x, h0):
    h = _run(implementation, a, x, h0)
    return h, _at(h, -1)


def _scan_forward(implementation, a, x, h0):
    h = checkpoint_name(_run(implementation, a, x, h0), SCAN_STATES)
    return (h, _at(h, -1)), (a, h, h0)


def _scan_backward(implementation, residuals, cotangents):
    """Propagates g_t = dh_t + conj(a_{t+1}) g_{t+1} from right to left.

    Then dx_t = g_t, da_t = g_t conj(h_{t-1}) and dh0 = conj(a_0) g_0.
    """
    a, h, h0 = residuals
    dh, dh_last = cotangents
    if implementation == "sequential":
        return _sequential_backward(a, h, h0, dh, dh_last)
    a = _conjugate(a)
    a_next = jax.tree.map(lambda p: jnp.pad(p[:, 1:], ((0, 0), (0, 1), (0, 0))), a)
    dh = jax.tree.map(lambda p, last: p.at[:, -1].add(last), dh, dh_last)
    zeros = jax.tree.map(jnp.zeros_like, h0)
    g = _run(implementation, a_next, dh, zeros, reverse=True)
    h_previous = jax.tree.map(
        lambda first, p: jnp.concatenate([first[:, None], p[:, :-1]], axis=1), h0, h
    )
    return _multiply(g, _conjugate(h_previous)), g, _multiply(_at(a, 0), _at(g, 0))


_scan.defvjp(_scan_forward, _scan_backward)


def _run(implementation: ScanImplementation, a, x, h0, *, reverse: bool = False):
    match implementation:
        case "associative":
            return _associative(a, x, h0, reverse)
        case "sequential":
            assert not reverse
            return _sequential(a, x, h0)
        case _:
            assert_never(implementation)


def _associative(a, x, h0, reverse: bool):
    first = -1 if reverse else 0
    carried = _multiply(_at(a, first), h0)
    x = jax.tree.map(lambda p, start: p.at[:, first].add(start), x, carried)

    def combine(left, right):
        (a_left, h_left), (a_right, h_right) = left, right
        return _multiply(a_right, a_left), _add(_multiply(a_right, h_left), h_right)

    return jax.lax.associative_scan(combine, (a, x), axis=1, reverse=reverse)[1]


def _sequential(a, x, h0):
    def step(t, carry):
        h, states = carry
        h = _add(_multiply(_row(a, t), h), _row(x, t))
        return h, _put_row(states, h, t)

    steps = _shapes(x)[0][1]
    return _loop(0, steps, step, (_as_row(h0), _empty_like(x)))[1]


def _sequential_backward(a, h, h0, dh, dh_last):
    """The recurrence of `_scan_backward` in one loop; nothing is shifted, nothing conjugated."""

    def step(t, h_previous, carry):
        g, dx, da = carry
        g = _add(_row(dh, t), g)
        dx = _put_row(dx, g, t)
        da = _put_row(da, _multiply(g, _conjugate(h_previous)), t)
        return _multiply(_conjugate(_row(a, t)), g), dx, da

    steps = _shapes(a)[0][1]

    def backward(index, carry):
        t = steps - 1 - index
        return step(t, _row(h, t - 1), carry)

    carry = _as_row(dh_last), _empty_like(dh), _empty_like(a)
    carry = _loop(0, steps - 1, backward, carry)
    dh0, dx, da = step(0, _as_row(h0), carry)
    return da, dx, _at(dh0, 0)


def _row(a, t):
    return jax.tree.map(lambda p: jax.lax.dynamic_slice_in_dim(p, t, 1, axis=1), a)


def _put_row(a, row, t):
    return jax.tree.map(lambda p, q: jax.lax.dynamic_update_slice_in_dim(p, q, t, axis=1), a, row)


def _as_row(h):
    return jax.tree.map(lambda p: p[:, None], h)


def _empty_like(a):
    return jax.tree.map(jnp.empty_like, a)


def _multiply(a, b):
    if isinstance(a, Planes):
        return Planes(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)
    return a * b


def _add(a, b):
    return jax.tree.map(jnp.add, a, b)


def _conjugate(a):
    return Planes(a.real, -a.imag) if isinstance(a, Planes) else a


def _at(a, index: int):
    return jax.tree.map(lambda plane: plane[:, index], a)


def _to_float32(a):
    return jax.tree.map(lambda plane: plane.astype(jnp.float32), a)


def _shapes(a) -> list[tuple[int, ...]]:
    return [plane.shape for plane in jax.tree.leaves(a)]
