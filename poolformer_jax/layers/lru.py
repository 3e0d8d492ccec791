"""The linear recurrent unit (LRU), complex and real."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.initialization import uniform
from poolformer_jax.layers.linear import dense
from poolformer_jax.layers.mixer_config import LRUConfig
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


class LRU(nn.Module):
    """Diagonal recurrence between two projections; one decay and phase serve all steps.

        u = x W_in + b_in
        log|a| = -softplus(Lambda),   phase = theta
        h_t = a h_{t-1} + sqrt(1 - |a|^2) u_t
        out = [Re h, Im h] W_out + b_out

    u's first half is the real plane, its second the imaginary one. The recurrence runs in float32
    whatever the activations' type. It is the `RGLRU` without its gates: i_t = 1, and r_t = 1
    without the exponent 8, so that |a| starts between the two radii that Lambda is drawn for.
    Orvieto et al. have exp(-exp(nu)) in place of the softplus, a learnt normalisation, and a direct
    path D x.

    Attributes:
      config: Widths and constants.
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
        config, execution = self.config, self.execution
        project = dense(config.recurrent_width, execution, name="input_projection")
        features, last = self.recur(project(x), state, x, project)
        project = dense(x.shape[-1], execution, name="output_projection")
        return project(features), last

    def recur(
        self,
        u: Float[Array, "b t e"],
        state: RealOrPlanes,
        x: Float[Array, "b t d"],
        project: nn.Dense,
    ) -> tuple[Float[Array, "b t e"], RealOrPlanes]:
        """Runs the recurrence: from u = project(x) and the state before it to (states, last)."""
        del x, project
        execution = self.execution
        decay, theta = self.decay_and_theta()

        def at_every_step(value: Float[Array, " c"]) -> Float[Array, "b t c"]:
            return jnp.broadcast_to(value, (*u.shape[:2], self.config.num_channels))

        features, last = normalized_recurrence(
            u.astype(jnp.float32),
            at_every_step(-jax.nn.softplus(decay)),
            phase=None if theta is None else at_every_step(theta),
            gate=None,
            h0=state,
            implementation=choose_implementation(execution.scan, execution.platform),
        )
        return features.astype(u.dtype), last

    def decay_and_theta(self) -> tuple[Float[Array, " c"], Float[Array, " c"] | None]:
        """The parameters Lambda and, if complex, theta."""
        config, shape = self.config, (self.config.num_channels,)
        decay = self.param("decay", init_decay, shape)
        if not config.complex:
            return decay, None
        return decay, self.param("theta", uniform(config.max_phase), shape)

    @nn.nowrap
    def init_state(self, batch: int, width: int) -> RealOrPlanes:
        """Zeros [b, c] in float32, as `Planes` if complex."""
        del width
        return zero_state(batch, self.config.num_channels, complex=self.config.complex)
