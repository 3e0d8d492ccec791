"""The gates, the normalisation and the recurrence of an RG-LRU, behind one entry."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from poolformer_jax import sharding
from poolformer_jax.ops import rg_lru_pallas_tpu, scan_pallas_tpu
from poolformer_jax.ops.phasor import phasor
from poolformer_jax.ops.planes import scale
from poolformer_jax.ops.recurrence import normalized_recurrence
from poolformer_jax.ops.scan import ScanImplementation
from poolformer_jax.ops.scan_sharded import scan_parts
from poolformer_jax.typing import RealOrPlanes


def rg_lru(
    u: Float[Array, "b t e"],
    gates: Float[Array, "b t c2"],
    *,
    log_decay: Float[Array, " c"],
    theta: Float[Array, " c"] | None,
    h0: RealOrPlanes,
    implementation: ScanImplementation,
) -> tuple[Float[Array, "b t e"], RealOrPlanes]:
    """Computes h_t = a_t h_{t-1} + sqrt(1 - |a_t|^2) i_t u_t with gates i_t and r_t.

        [i_t, r_t] = sigmoid(gates_t),   log a_t = r_t (log_decay + j theta)

    Arithmetic and state are float32, whatever the type of the arrays.

    Args:
      u: Input; if complex, the first half of its columns is the real plane, the second half the
        imaginary one.
      gates: Input gate and recurrence gate side by side, 2c columns, before their sigmoids.
      log_decay: log|a| where the recurrence gate is open, negative.
      theta: Phase of a there, in radians; None for a real recurrence, c = e.
      h0: State before the first step, as `Planes` if complex.
      implementation: See `linear_scan`; `fused` computes the gates in the kernel too.

    Returns:
      (all states, planes side by side as in u, of u's type; the last state in float32).

    Source: De et al. 2024, arXiv:2402.19427, eqs. 1 to 4; Gallo Fernandez 2025, arXiv:2510.02206.
    """
    if implementation == "fused" and u.shape[1] > 1:

        def kernel(rows: Any, parameters: Any) -> Any:
            (u, gates, h0), (log_decay, theta) = rows, parameters
            interpret = scan_pallas_tpu.interpret_kernels()
            return rg_lru_pallas_tpu.rg_lru(u, gates, log_decay, theta, h0, interpret=interpret)

        def run(operands: Any, h0: Any) -> Any:
            (u, gates), parameters = operands
            return sharding.map_batch(kernel, (u, gates, h0), parameters)

        return scan_parts(run, _product, ((u, gates), (log_decay, theta)), h0)
    i, r = jnp.split(jax.nn.sigmoid(gates.astype(jnp.float32)), 2, axis=-1)
    h, h_last = normalized_recurrence(
        u.astype(jnp.float32),
        r * log_decay[None, None],
        phase=None if theta is None else r * theta[None, None],
        gate=i,
        h0=h0,
        implementation=implementation,
    )
    return h.astype(u.dtype), h_last


def _product(operands: Any) -> RealOrPlanes:
    """The product of a_t over time: exponents add up, and all are multiples of r_t."""
    (_, gates), (log_decay, theta) = operands
    _, gate_a = jnp.split(gates, 2, axis=-1)
    total = jnp.sum(jax.nn.sigmoid(gate_a.astype(jnp.float32)), axis=1)
    magnitude = jnp.exp(total * log_decay[None])
    return magnitude if theta is None else scale(magnitude, phasor(total * theta[None]))
