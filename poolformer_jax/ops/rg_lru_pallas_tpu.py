"""The gates and the recurrence of an RG-LRU in one Pallas kernel for TPU, forward and backward.

Computed outside, the gates, the decay and the drive of every step would each go through HBM. Here
only the inputs are read and only the states are written; the backward pass computes the gates once
more from the inputs.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from poolformer_jax.ops.bounded_sqrt import MAX_GRADIENT
from poolformer_jax.ops.phasor import phasor
from poolformer_jax.ops.planes import conjugate, from_planes, multiply, scale
from poolformer_jax.ops.scan_pallas_tpu import (
    Layout,
    run_backward,
    run_forward,
    side_by_side,
    split,
)
from poolformer_jax.typing import RealOrPlanes

# A recurrence gate that is closed, for padding: log a = 0 leaves the state as it is.
CLOSED = -80.0


def rg_lru(
    u: Float[Array, "b t e"],
    gate_x: Float[Array, "b t c"],
    gate_a: Float[Array, "b t c"],
    log_decay: Float[Array, " c"],
    theta: Float[Array, " c"] | None,
    h0: RealOrPlanes,
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "b t e"], RealOrPlanes]:
    """Computes what `ops.rg_lru.rg_lru` does, in float32 from float32 or bfloat16 arrays.

    Args:
      u: Input, planes side by side.
      gate_x: Input gate before its sigmoid.
      gate_a: Recurrence gate before its sigmoid.
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
    h, h_last = _rg_lru(interpret, u, gate_x, gate_a, parameters, side_by_side(h0))
    return h, split(h_last, len(parameters))


# A real recurrence has one parameter and one plane, a complex one has two of both.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rg_lru(interpret, u, gate_x, gate_a, parameters, h0):
    return _forward(interpret, u, gate_x, gate_a, parameters, h0)[0]


def _forward(interpret, u, gate_x, gate_a, parameters, h0):
    planes = len(parameters)
    h, h_last = run_forward(
        functools.partial(_prepare, planes),
        [(u, 0.0), (gate_x, 0.0), (gate_a, CLOSED)],
        parameters,
        h0,
        layout=_layout(u, gate_x, gate_a, u),
        states=[(planes, u.dtype)],
        interpret=interpret,
    )
    return (h[0], h_last), (u, gate_x, gate_a, parameters, h0, h[0])


def _backward(interpret, residuals, cotangents):
    u, gate_x, gate_a, parameters, h0, h = residuals
    dh, dh_last = cotangents
    planes = len(parameters)
    gradients, sums, dh0 = run_backward(
        lambda *read: _decay(read[-1 - planes], *read[-planes:])[-1],
        functools.partial(_finish, planes),
        [(u, 0.0), (gate_x, 0.0), (gate_a, CLOSED)],
        parameters,
        [h],
        h0,
        [dh],
        dh_last,
        layout=_layout(u, gate_x, gate_a, h, dh, u, gate_x, gate_a),
        gradients=[(planes, u.dtype), (1, gate_x.dtype), (1, gate_a.dtype)],
        interpret=interpret,
    )
    return (*gradients, sums, dh0)


_rg_lru.defvjp(_forward, _backward)


def _layout(u, gate_x, *others) -> Layout:
    channels = gate_x.shape[-1]
    arrays = (u, gate_x, *others)
    dtypes = [array.dtype for array in arrays for _ in range(array.shape[-1] // channels)]
    return Layout.of(gate_x.shape, dtypes)


def _prepare(planes: int, *read):
    """From what is read of a step to (a_t, x_t)."""
    u, (gate_x, gate_a, *parameters) = from_planes(read[:planes]), read[planes:]
    _, log_a, a = _decay(gate_a, *parameters)
    root, _ = _root(log_a, _squared(a))
    return a, scale(_sigmoid(gate_x) * root, u)


def _finish(planes: int, *read):
    """From what is read of a step, conj(a_t), g_t and h_{t-1} to the gradients."""
    *read, a_conjugate, g, h_before = read
    u, (gate_x, gate_a, *parameters) = from_planes(read[:planes]), read[planes:]
    i, r, squared = _sigmoid(gate_x), _recurrence_gate(gate_a), _squared(a_conjugate)
    root, slope = _root(r * parameters[0], squared)
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
    """From a gate before its sigmoid to (r, log|a|, a)."""
    r = _recurrence_gate(gate_a)
    log_a = r * log_decay
    magnitude = jnp.exp(log_a)
    return r, log_a, magnitude if theta is None else scale(magnitude, phasor(r * theta))


def _sigmoid(x: Array) -> Array:
    """A sigmoid to 1e-7: one operation of the unit for transcendental functions."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def _recurrence_gate(x: Array) -> Array:
    """A sigmoid with all its digits where it is small: there are the channels that remember."""
    root = jax.lax.rsqrt(1.0 + jnp.exp(-x))
    return root * root


def _squared(a: Any) -> Array:
    return sum(plane * plane for plane in jax.tree.leaves(a))


def _root(log_a: Array, squared: Array) -> tuple[Array, Array]:
    """The square root of 1 - |a|^2 and its bounded derivative, from log|a| and |a|^2.

    Where |a| is close to 1, the difference loses its digits and gives way to the series of expm1.
    """
    x = 2.0 * log_a
    series = -x * (1.0 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120)))))
    # The smallest argument is for rsqrt(0).
    difference = jnp.maximum(jnp.where(x > -1 / 8, series, 1.0 - squared), 1e-30)
    inverse = jax.lax.rsqrt(difference)
    return difference * inverse, jnp.minimum(0.5 * inverse, MAX_GRADIENT)
