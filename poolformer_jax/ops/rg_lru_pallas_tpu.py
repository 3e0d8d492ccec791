"""The gates and the recurrence of an RG-LRU in one Pallas kernel for TPU, forward and backward.

Computed outside, the gates, the decay and the drive of every step would each go through HBM. Here
only the inputs are read and only the states are written; the backward pass computes the gates once
more from the inputs.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from poolformer_jax.ops.bounded_sqrt import MAX_GRADIENT
from poolformer_jax.ops.planes import conjugate, from_planes, multiply, scale
from poolformer_jax.ops.scan_pallas_tpu import (
    Layout,
    run_backward,
    run_forward,
    side_by_side,
    split,
)
from poolformer_jax.typing import Planes, RealOrPlanes

# Gates that are closed, for padding: a = 1 and no input leave the state as it is.
CLOSED = -80.0
# pi in two parts; the first has so few bits that n times it is exact in float32 for |n| < 2^16.
PI = (3.140625, 9.67653589793e-4)
# Minimax polynomials on [-pi/2, pi/2], to 5e-9: sin r = r + r^3 P(r^2) and
# cos r = 1 + r^2 Q(r^2).
SIN_COEFFICIENTS = (-1.66666571e-1, 8.33301710e-3, -1.98066016e-4, 2.60002449e-6)
COS_COEFFICIENTS = (-4.99999994e-1, 4.16666381e-2, -1.38883907e-3, 2.47620103e-5, -2.60886589e-7)


def rg_lru(
    u: Float[Array, "b t e"],
    gates: Float[Array, "b t c2"],
    log_decay: Float[Array, " c"],
    theta: Float[Array, " c"] | None,
    h0: RealOrPlanes,
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "b t e"], RealOrPlanes]:
    """Computes what `ops.rg_lru.rg_lru` does, in float32 from float32 or bfloat16 arrays.

    Args:
      u: Input, planes side by side.
      gates: Input gate and recurrence gate side by side, before their sigmoids.
      log_decay: log|a| where the recurrence gate is open, negative.
      theta: Phase of a there, in radians; None for a real recurrence.
      h0: State before the first step.
      interpret: Run the kernel's program on any device, without Mosaic; for tests.

    Returns:
      (all states, planes side by side as in u, of u's type; the last state in float32).

    Source: De et al. 2024, arXiv:2402.19427, section 2.4 and appendix on its Pallas kernel; Gallo
    Fernandez 2025, arXiv:2510.02206.
    """
    parameters = [log_decay] if theta is None else [log_decay, theta]
    parameters = [parameter.astype(jnp.float32) for parameter in parameters]
    h, h_last = _rg_lru(interpret, u, gates, parameters, side_by_side(h0).astype(jnp.float32))
    return h, split(h_last, len(parameters))


# A real recurrence has one parameter and one plane, a complex one has two of both.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rg_lru(interpret, u, gates, parameters, h0):
    return _forward(interpret, u, gates, parameters, h0)[0]


def _forward(interpret, u, gates, parameters, h0):
    planes = len(parameters)
    h, h_last = run_forward(
        functools.partial(_prepare, planes),
        [(u, 0.0), (gates, CLOSED)],
        parameters,
        h0,
        name="rg_lru_forward",
        layout=_layout(gates, u, u),
        states=[(planes, u.dtype)],
        interpret=interpret,
    )
    return (h[0], h_last), (u, gates, parameters, h0, h[0])


def _backward(interpret, residuals, cotangents):
    u, gates, parameters, h0, h = residuals
    dh, dh_last = cotangents
    planes = len(parameters)
    gradients, sums, dh0 = run_backward(
        lambda *read: _decay(*read[planes + 1 :]),
        functools.partial(_finish, planes),
        [(u, 0.0), (gates, CLOSED)],
        parameters,
        [h],
        h0,
        [dh],
        dh_last,
        name="rg_lru_backward",
        layout=_layout(gates, u, h, dh, u, gates),
        gradients=[(planes, u.dtype), (2, gates.dtype)],
        kept=2,
        interpret=interpret,
    )
    return (*gradients, sums, dh0)


_rg_lru.defvjp(_forward, _backward)


def _layout(gates, *others) -> Layout:
    b, t, columns = gates.shape
    channels = columns // 2
    dtypes = [array.dtype for array in (gates, *others) for _ in range(array.shape[-1] // channels)]
    return Layout.of((b, t, channels), dtypes)


def _prepare(planes: int, *read):
    """From what is read of a step to (a_t, x_t)."""
    u, (gate_x, *gate_and_parameters) = from_planes(read[:planes]), read[planes:]
    a, log_a = _decay(*gate_and_parameters)[:2]
    root, _ = _root(log_a, _squared(a))
    return a, scale(_sigmoid(gate_x) * root, u)


def _finish(planes: int, *read):
    """From what is read of a step, conj(a_t), g_t, h_{t-1} and what was kept to the gradients."""
    u, (gate_x, _, *parameters) = from_planes(read[:planes]), read[planes:-5]
    a_conjugate, g, h_before, log_a, r = read[-5:]
    i, squared = _sigmoid(gate_x), _squared(a_conjugate)
    root, slope = _root(log_a, squared)
    drive = i * root
    d_drive = sum(jax.tree.leaves(jax.tree.map(jnp.multiply, g, u)))
    # The gradients of log|a| and of the phase are the two parts of da conj(a).
    da = multiply(g, conjugate(h_before))
    d_log_a, *d_phase = jax.tree.leaves(multiply(da, a_conjugate))
    d_exponents = [d_log_a - 2.0 * squared * slope * i * d_drive, *d_phase]
    dr = sum(map(jnp.multiply, d_exponents, parameters))
    gradients = [scale(drive, g), d_drive * drive * (1.0 - i), dr * r * (1.0 - r)]
    return gradients, [d_exponent * r for d_exponent in d_exponents]


def _decay(gate_a: Array, log_decay: Array, theta: Array | None = None):
    """From a gate before its sigmoid to (a, log|a|, r)."""
    # A sigmoid that keeps its digits where it is small, which is in channels that remember.
    tanh = 0.5 * jnp.tanh(0.5 * gate_a)
    r = jnp.where(gate_a < 0.0, jnp.exp(gate_a) * (0.5 - tanh), 0.5 + tanh)
    log_a = r * log_decay
    magnitude = jnp.exp(log_a)
    return magnitude if theta is None else scale(magnitude, phasor(r * theta)), log_a, r


def _sigmoid(x: Array) -> Array:
    """A sigmoid to 1e-7: one operation of the unit for transcendental functions."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def phasor(phase: Array) -> Planes:
    """Cosine and sine to 2e-7 for |phase| <= 100, in a third fewer operations than `phasor`.

    Longer polynomials on [-pi/2, pi/2] leave two cases instead of four.
    """
    half_turns = jnp.floor(phase * (1.0 / math.pi) + 0.5)
    r = phase
    for part in PI:
        r = r - half_turns * part
    square = r * r
    sin = r + r * (square * _polynomial(SIN_COEFFICIENTS, square))
    cos = 1.0 + square * _polynomial(COS_COEFFICIENTS, square)
    sign = half_turns.astype(jnp.int32) << 31  # Of an odd number the lowest bit is set.
    bits, number = jnp.int32, jnp.float32
    return Planes(
        *(
            jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, bits) ^ sign, number)
            for x in (cos, sin)
        )
    )


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Lowest power first."""
    *rest, second, first = coefficients
    y = x * first + second
    for coefficient in reversed(rest):
        y = y * x + coefficient
    return y


def _squared(a: Any) -> Array:
    return sum(plane * plane for plane in jax.tree.leaves(a))


def _root(log_a: Array, squared: Array) -> tuple[Array, Array]:
    """The square root of 1 - |a|^2 and its bounded derivative, from log|a| and |a|^2.

    Where |a| is close to 1, the difference loses its digits and gives way to the series of
    -expm1(2 log|a|); at the border either is good to 2e-6.
    """
    series = -2.0 * log_a * _polynomial((1.0, 1.0, 2 / 3, 1 / 3), log_a)
    difference = jnp.where(log_a > -1 / 32, series, 1.0 - squared)
    difference = jnp.maximum(difference, 1e-30)  # For rsqrt(0).
    inverse = jax.lax.rsqrt(difference)
    return difference * inverse, jnp.minimum(0.5 * inverse, MAX_GRADIENT)
