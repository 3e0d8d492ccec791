"""The real-gated linear recurrent unit (RG-LRU), complex and real: an LRU with gates."""

from __future__ import annotations

import jax
from jax import Array
from jaxtyping import Float

from poolformer_jax.layers.config import RGLRUConfig
from poolformer_jax.layers.linear import BlockDiagonalLinear
from poolformer_jax.layers.lru import LRU


class RGLRU(LRU):
    """Gated diagonal recurrence between two projections, which are those of the `LRU`.

    With u as there, and i_t, r_t sigmoids of block-diagonal maps of u:

        log|a_t| = -decay_exponent * r_t * softplus(Lambda),   phase_t = r_t * theta
        h_t = a_t h_{t-1} + sqrt(1 - |a_t|^2) * i_t * u_t

    The recurrence gate scales the phase as well as the decay. Both gates of channel k are shared
    by its real and imaginary part. They run in float32, as the recurrence does.

    Source: De et al. 2024, arXiv:2402.19427, section 2.4; Gallo Fernandez 2025, arXiv:2510.02206.
    """

    config: RGLRUConfig

    def coefficients(
        self, u: Float[Array, "b t e"]
    ) -> tuple[Float[Array, "b t c"], Float[Array, "b t c"] | None, Float[Array, "b t c"] | None]:
        """Returns log|a_t|, the phase if complex, and the input gate."""
        config = self.config

        def gate(name: str) -> Float[Array, "b t c"]:
            linear = BlockDiagonalLinear(config.num_channels, config.num_gate_blocks, name=name)
            return jax.nn.sigmoid(linear(u))

        gate_x, gate_a = gate("input_gate"), gate("recurrence_gate")
        decay, theta = self.decay_and_theta()
        log_a = -config.decay_exponent * gate_a * jax.nn.softplus(decay)[None, None]
        return log_a, None if theta is None else gate_a * theta[None, None], gate_x
