"""The real-gated linear recurrent unit (RG-LRU), complex and real: an LRU with gates."""

from __future__ import annotations

import jax
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from poolformer_jax.layers.linear import (
    BlockDiagonalLinear,
    apply_after_dense,
    apply_block_diagonal,
)
from poolformer_jax.layers.lru import LRU
from poolformer_jax.layers.mixer_config import RGLRUConfig
from poolformer_jax.ops.rg_lru import rg_lru
from poolformer_jax.ops.scan import choose_implementation
from poolformer_jax.typing import RealOrPlanes


class RGLRU(LRU):
    """Gated diagonal recurrence between two projections, which are those of the `LRU`.

    With u as there, and i_t, r_t sigmoids of block-diagonal maps of u:

        log|a_t| = -decay_exponent * r_t * softplus(Lambda),   phase_t = r_t * theta
        h_t = a_t h_{t-1} + sqrt(1 - |a_t|^2) * i_t * u_t

    The recurrence gate scales the phase as well as the decay. Both gates of channel k are shared
    by its real and imaginary part.

    Source: De et al. 2024, arXiv:2402.19427, section 2.4; Gallo Fernandez 2025, arXiv:2510.02206.
    """

    config: RGLRUConfig

    def recur(
        self,
        u: Float[Array, "b t e"],
        state: RealOrPlanes,
        x: Float[Array, "b t d"],
        project: nn.Dense,
    ) -> tuple[Float[Array, "b t e"], RealOrPlanes]:
        """Runs the gated recurrence."""
        config, execution = self.config, self.execution

        weights = [
            BlockDiagonalLinear(config.num_channels, config.num_gate_blocks, name=name).weights(
                u.shape[-1]
            )
            for name in ("input_gate", "recurrence_gate")
        ]
        if execution.platform == "cpu" and u.shape[1] > 1:
            gates = apply_after_dense(x.astype(u.dtype), project.variables["params"], weights)
        else:
            gates = apply_block_diagonal(u, weights)
        decay, theta = self.decay_and_theta()
        return rg_lru(
            u,
            gates,
            log_decay=-config.decay_exponent * jax.nn.softplus(decay),
            theta=theta,
            h0=state,
            implementation=choose_implementation(execution.scan, execution.platform),
        )
