"""The real-gated linear recurrent unit (RG-LRU), complex and real."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from poolformer_jax.layers.config import ExecutionConfig, RGLRUConfig
from poolformer_jax.layers.linear import BlockDiagonalLinear
from poolformer_jax.ops.recurrence import normalized_recurrence, zero_state
from poolformer_jax.ops.scan import choose_implementation
from poolformer_jax.typing import RealOrPlanes

MIN_RADIUS, MAX_RADIUS = 0.9, 0.99


def init_decay(key: Array, shape: tuple[int, ...]) -> Float[Array, " c"]:
    """Draws Lambda so that exp(-softplus(Lambda)) is uniform in area between two radii.

    With m^2 ~ U[0.9^2, 0.99^2], Lambda = softplus^-1(-log m) = log(1/m - 1).

    Source: Orvieto et al. 2023, arXiv:2303.06349, lemma 3.2.
    """
    m = jnp.sqrt(jax.random.uniform(key, shape, minval=MIN_RADIUS**2, maxval=MAX_RADIUS**2))
    return jnp.log(1.0 / m - 1.0)


class RGLRU(nn.Module):
    """Gated diagonal recurrence between two projections.

    With u = x W_in + b_in, and i_t, r_t sigmoids of block-diagonal maps of u:

        log|a_t| = -decay_exponent * r_t * softplus(Lambda),   phase_t = r_t * theta
        h_t = a_t h_{t-1} + sqrt(1 - |a_t|^2) * i_t * u_t
        out = [Re h, Im h] W_out + b_out

    The recurrence gate scales the phase as well as the decay. Both gates of channel k are shared
    by its real and imaginary part: u's first half is the real plane, its second the imaginary
    one. Gates and recurrence run in float32 whatever the activations' type.

    Attributes:
      config: Widths and constants.
      execution: Type of the activations, implementation of the recurrence.

    Source: De et al. 2024, arXiv:2402.19427, section 2.4; Gallo Fernandez 2025, arXiv:2510.02206.
    """

    config: RGLRUConfig
    execution: ExecutionConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: RealOrPlanes
    ) -> tuple[Float[Array, "b t d"], RealOrPlanes]:
        config, execution, channels = self.config, self.execution, self.config.num_channels
        u = nn.Dense(config.recurrent_width, dtype=execution.dtype, name="input_projection")(x)
        u = u.astype(jnp.float32)

        def gate(name: str) -> Float[Array, "b t c"]:
            linear = BlockDiagonalLinear(channels, config.num_gate_blocks, name=name)
            return jax.nn.sigmoid(linear(u))

        gate_x, gate_a = gate("input_gate"), gate("recurrence_gate")
        decay = self.param("decay", init_decay, (channels,))
        phase = None
        if config.complex:
            theta = self.param("theta", nn.initializers.uniform(config.max_phase), (channels,))
            phase = gate_a * theta[None, None]
        features, h_last = normalized_recurrence(
            u,
            -config.decay_exponent * gate_a * jax.nn.softplus(decay)[None, None],
            phase=phase,
            gate=gate_x,
            h0=state,
            implementation=choose_implementation(execution.scan, execution.platform),
        )
        project = nn.Dense(x.shape[-1], dtype=execution.dtype, name="output_projection")
        return project(features), h_last

    @nn.nowrap
    def init_state(self, batch: int) -> RealOrPlanes:
        """Zeros [b, c] in float32, as `Planes` if complex."""
        return zero_state(batch, self.config.num_channels, complex=self.config.complex)
