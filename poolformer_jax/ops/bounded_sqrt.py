"""Square root with a bounded gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

MAX_GRADIENT = 200.0


@jax.custom_jvp
def bounded_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Computes sqrt(x) for x >= 0, with a derivative of at most 200.

    The derivative 1 / (2 sqrt(x)) is evaluated at max(x, 1 / (4 * 200^2)). In an RG-LRU x is
    1 - |a|^2, which comes arbitrarily close to 0 when a channel learns to remember for long.

    Source: De et al. 2024, arXiv:2402.19427 (RecurrentGemma bounds it at 1000); the bound of 200
    is Gallo Fernandez 2025, arXiv:2510.02206.
    """
    return jnp.sqrt(x)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    bounded = jnp.maximum(x, 1.0 / (4.0 * MAX_GRADIENT**2))
    return jnp.sqrt(x), dx * 0.5 * jax.lax.rsqrt(bounded)
