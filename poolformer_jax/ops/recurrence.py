"""The normalised diagonal recurrence that the LRU and the RG-LRU share."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from poolformer_jax.ops.bounded_sqrt import bounded_sqrt
from poolformer_jax.ops.phasor import phasor
from poolformer_jax.ops.scan import ScanImplementation, linear_scan
from poolformer_jax.typing import Planes, RealOrPlanes


def normalized_recurrence(
    u: Float[Array, "b t e"],
    log_a: Float[Array, "b t c"],
    *,
    phase: Float[Array, "b t c"] | None,
    gate: Float[Array, "b t c"] | None,
    h0: RealOrPlanes,
    implementation: ScanImplementation,
) -> tuple[Float[Array, "b t e"], RealOrPlanes]:
    """Computes h_t = a_t h_{t-1} + sqrt(1 - |a_t|^2) i_t u_t with a_t = exp(log_a_t + j phase_t).

    Args:
      u: Input; if complex, the first half of its columns is the real plane, the second half the
        imaginary one.
      log_a: log |a_t|, negative.
      phase: Of a_t in radians; None for a real recurrence, c = e.
      gate: i_t; None is 1.
      h0: State before the first step, as `Planes` if complex.
      implementation: See `linear_scan`.

    Returns:
      (all states, planes side by side as in u, the last state).

    Source: De et al. 2024, arXiv:2402.19427, eq. 4.
    """
    # 1 - |a|^2 by expm1: the difference would lose all its digits where |a| is close to 1.
    drive = bounded_sqrt(-jnp.expm1(2.0 * log_a))
    if gate is not None:
        drive = drive * gate
    magnitude = jnp.exp(log_a)
    if phase is None:
        assert not isinstance(h0, Planes)
        return linear_scan(magnitude, drive * u, h0=h0, implementation=implementation)
    channels = log_a.shape[-1]
    direction = phasor(phase)
    a = Planes(magnitude * direction.real, magnitude * direction.imag)
    x = Planes(drive * u[..., :channels], drive * u[..., channels:])
    h, h_last = linear_scan(a, x, h0=h0, implementation=implementation)
    return jnp.concatenate([h.real, h.imag], axis=-1), h_last


def zero_state(batch: int, channels: int, *, complex: bool) -> RealOrPlanes:
    """Zeros [b, c] in float32, as `Planes` if complex."""
    zeros = jnp.zeros((batch, channels), jnp.float32)
    return Planes(zeros, zeros) if complex else zeros
