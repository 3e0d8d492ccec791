"""The linear recurrent unit (LRU): the RG-LRU without its gates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from poolformer_jax.layers.config import ExecutionConfig, LRUConfig
from poolformer_jax.layers.rg_lru import init_decay
from poolformer_jax.ops.recurrence import normalized_recurrence, zero_state
from poolformer_jax.ops.scan import choose_implementation
from poolformer_jax.typing import RealOrPlanes


class LRU(nn.Module):
    """Diagonal recurrence between two projections, with one decay and phase for all steps.

        |a| = exp(-softplus(Lambda)),   h_t = a h_{t-1} + sqrt(1 - |a|^2) u_t

    u_t, the planes and the projections are those of the `RGLRU`, which this becomes the ablation
    of when its gates are taken away: i_t = 1, and r_t = 1 without the exponent 8, so that |a|
    starts between the two radii that Lambda is drawn for. Orvieto et al. have exp(-exp(nu)) in
    place of the softplus, a learnt normalisation, and a direct path D x.

    Attributes:
      config: Width and constants.
      execution: Type of the activations, implementation of the recurrence.

    Source: Orvieto et al. 2023, arXiv:2303.06349, section 3; Gallo Fernandez 2025,
    arXiv:2510.02206 (ablation).
    """

    config: LRUConfig
    execution: ExecutionConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: RealOrPlanes
    ) -> tuple[Float[Array, "b t d"], RealOrPlanes]:
        config, execution, channels = self.config, self.execution, self.config.num_channels
        u = nn.Dense(config.recurrent_width, dtype=execution.dtype, name="input_projection")(x)

        def at_every_step(value: Float[Array, " c"]) -> Float[Array, "b t c"]:
            return jnp.broadcast_to(value, (*x.shape[:2], channels))

        decay = self.param("decay", init_decay, (channels,))
        phase = None
        if config.complex:
            theta = self.param("theta", nn.initializers.uniform(config.max_phase), (channels,))
            phase = at_every_step(theta)
        features, h_last = normalized_recurrence(
            u.astype(jnp.float32),
            at_every_step(-jax.nn.softplus(decay)),
            phase=phase,
            gate=None,
            h0=state,
            implementation=choose_implementation(execution.scan, execution.platform),
        )
        project = nn.Dense(x.shape[-1], dtype=execution.dtype, name="output_projection")
        return project(features), h_last

    @nn.nowrap
    def init_state(self, batch: int) -> RealOrPlanes:
        """Zeros [b, c] in float32, as `Planes` if complex."""
        return zero_state(batch, self.config.num_channels, complex=self.config.complex)
