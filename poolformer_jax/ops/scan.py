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

from poolformer_jax import sharding
from poolformer_jax.config_checks import Platform
from poolformer_jax.ops import scan_pallas_tpu
from poolformer_jax.ops.planes import add, conjugate, multiply
from poolformer_jax.ops.scan_sharded import scan_parts
from poolformer_jax.typing import Planes, RealOrPlanes

ScanImplementation = Literal["associative", "sequential", "pallas", "fused"]
T = TypeVar("T", bound=RealOrPlanes)

SCAN_STATES = "scan_states"
"""Name of the states among what a policy of `jax.checkpoint` may save."""


def choose_implementation(
    name: ScanImplementation | Literal["auto"], platform: Platform
) -> ScanImplementation:
    """Resolves `auto` for a platform named by the configuration.

    A TPU has kernels. A CPU is faster with the plain loop than with the associative scan, which
    does twice the arithmetic, or with segments side by side, which read everything twice. On a GPU,
    which was not measured, thousands of lanes wait for work: the associative scan uses them. The
    platform is an argument, never `jax.devices()`, so that a program can be compiled for a machine
    that is not there.
    """
    if name != "auto":
        return name
    match platform:
        case "cpu":
            return "sequential"
        case "gpu":
            return "associative"
        case "tpu":
            return "fused"


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
    return add(multiply(a, h), x)


def linear_scan(
    a: T, x: T, *, h0: T | None = None, implementation: ScanImplementation = "associative"
) -> tuple[T, T]:
    """Computes h_t = a_t * h_{t-1} + x_t along time.

    Args:
      a: [b, t, c] decay per step, |a| <= 1 (unitless); an array, or `Planes` if complex.
      x: [b, t, c] gated, normalised input, of a's kind.
      h0: [b, c] state before the first step, of a's kind; zeros if None.
      implementation: `associative` (a tree of depth log t), `sequential` (a loop), or the kernel
        for TPU (`pallas`; `fused` is the same where there are no gates). The same result up to
        rounding; they differ in memory and speed.

    Returns:
      (all states h [b, t, c] in x's dtype, last state [b, c] in float32).

    Raises:
      ValueError: If kinds or shapes differ, or t is 0. A kernel on another platform than its own is
        refused by the configuration, and by JAX when it is compiled here.

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

    def run(inputs, h0):
        a, x = inputs
        if t == 1:  # Streaming: nothing to scan over.
            first = functools.partial(jax.tree.map, lambda plane: plane[:, 0])
            h_last = linear_step(first(a), first(x), h0)
            return jax.tree.map(lambda plane: plane[:, None].astype(dtype), h_last), h_last
        if implementation in ("pallas", "fused"):
            return sharding.map_batch(kernel, (a, x, h0), ())
        a, x = _to_float32(a), _to_float32(x)
        h, h_last = scan_part(implementation, SCAN_STATES, a, x, h0)
        return jax.tree.map(lambda plane: plane.astype(dtype), h), h_last

    def kernel(rows, _):
        return scan_pallas_tpu.scan(*rows, interpret=scan_pallas_tpu.interpret_kernels())

    def product(inputs):
        return _product(_to_float32(inputs[0]))

    return cast(tuple[T, T], scan_parts(run, product, (a, x), _to_float32(h0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def scan_part(
    implementation: Literal["associative", "sequential"], name: str, a: T, x: T, h0: T
) -> tuple[T, T]:
    """Does it in float32 for [b, t, ...], whatever parts of time there are before.

    Args:
      implementation: As in `linear_scan`.
      name: What policies of `jax.checkpoint` call the states.
      a: Decay.
      x: Input.
      h0: State before the first step.
    """
    h = _run(implementation, a, x, h0)
    return h, _at(h, -1)


def _scan_forward(implementation, name, a, x, h0):
    h = checkpoint_name(_run(implementation, a, x, h0), name)
    return (h, _at(h, -1)), (a, h, h0)


def _scan_backward(implementation, name, residuals, cotangents):
    """Propagates g_t = dh_t + conj(a_{t+1}) g_{t+1} from right to left.

    Then dx_t = g_t, da_t = g_t conj(h_{t-1}) and dh0 = conj(a_0) g_0.
    """
    del name
    a, h, h0 = residuals
    dh, dh_last = cotangents
    a = conjugate(a)
    after = [(0, 0), (0, 1)] + [(0, 0)] * (jax.tree.leaves(a)[0].ndim - 2)
    a_next = jax.tree.map(lambda p: jnp.pad(p[:, 1:], after), a)
    dh = jax.tree.map(lambda p, last: p.at[:, -1].add(last), dh, dh_last)
    zeros = jax.tree.map(jnp.zeros_like, h0)
    g = _run(implementation, a_next, dh, zeros, reverse=True)
    h_previous = jax.tree.map(
        lambda first, p: jnp.concatenate([first[:, None], p[:, :-1]], axis=1), h0, h
    )
    return multiply(g, conjugate(h_previous)), g, multiply(_at(a, 0), _at(g, 0))


scan_part.defvjp(_scan_forward, _scan_backward)


def _run(implementation: Literal["associative", "sequential"], a, x, h0, *, reverse: bool = False):
    match implementation:
        case "associative":
            return _associative(a, x, h0, reverse)
        case "sequential":
            return _sequential(a, x, h0, reverse)
        case _:
            assert_never(implementation)


def _associative(a, x, h0, reverse: bool):
    first = -1 if reverse else 0
    carried = multiply(_at(a, first), h0)
    x = jax.tree.map(lambda p, start: p.at[:, first].add(start), x, carried)

    def combine(left, right):
        (a_left, h_left), (a_right, h_right) = left, right
        return multiply(a_right, a_left), add(multiply(a_right, h_left), h_right)

    return jax.lax.associative_scan(combine, (a, x), axis=1, reverse=reverse)[1]


def _sequential(a, x, h0, reverse: bool):
    def step(h, inputs):
        a_t, x_t = inputs
        h = add(multiply(a_t, h), x_t)
        return h, h

    time_major = jax.tree.map(lambda p: jnp.swapaxes(p, 0, 1), (a, x))
    _, h = jax.lax.scan(step, h0, time_major, reverse=reverse)
    return jax.tree.map(lambda p: jnp.swapaxes(p, 0, 1), h)


def _product(a):
    """The product over time, by halves."""
    while (t := jax.tree.leaves(a)[0].shape[1]) > 1:
        odd = _at(a, -1) if t % 2 else None
        even = jax.tree.map(lambda plane, t=t: plane[:, : t - t % 2], a)
        a = multiply(*(jax.tree.map(lambda p, i=i: p[:, i::2], even) for i in (0, 1)))
        if odd is not None:
            a = jax.tree.map(lambda p, q: p.at[:, -1].set(q), a, multiply(_at(a, -1), odd))
    return _at(a, 0)


def _at(a, index: int):
    return jax.tree.map(lambda plane: plane[:, index], a)


def _to_float32(a):
    return jax.tree.map(lambda plane: plane.astype(jnp.float32), a)


def _shapes(a) -> list[tuple[int, ...]]:
    return [plane.shape for plane in jax.tree.leaves(a)]
