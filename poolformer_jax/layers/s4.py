"""S4 and S4D, the state spaces of SaShiMi, with what follows them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.initialization import init_time_step, torch_uniform
from poolformer_jax.layers.linear import dense
from poolformer_jax.layers.mixer_config import S4_CHUNK, S4Config, S4DConfig
from poolformer_jax.ops import hippo
from poolformer_jax.ops.state_space import DiagonalSystem, LowRankSystem, System, run
from poolformer_jax.typing import Planes

_normal = nn.initializers.normal(math.sqrt(0.5))  # Of either plane of a complex normal number.


class S4(nn.Module):
    """A state space for each channel, then an activation and a map of all channels.

        x' = (A - P P^*) x + B u,   y = 2 Re(C x) + D u,   discrete with steps of dt
        out = GLU(gelu(y) W + b)

    with A = -exp(A_real) - i A_imag, dt = softplus(inv_dt), the exact GELU, and P for S4 alone. B,
    C and P have a real and an imaginary plane in their last axis. The state space is computed in
    float32 whatever the activations' type. Unlike the released code, whose parameter is
    C (1 - A^T) for the length T of a level, this one has C itself.

    Attributes:
      config: Size, initial values, method.
      execution: Type of the activations.

    Source: Gu et al. 2022, arXiv:2111.00396; Gu et al. 2022, arXiv:2206.11893; Goel et al. 2022,
    arXiv:2202.09729.
    """

    config: S4Config
    execution: ExecutionConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: Float[Array, "b d s"]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b d s"]]:
        config, d = self.config, x.shape[-1]
        u = x.astype(jnp.float32)
        method = "chunked" if config.method == "auto" else config.method
        # A CPU has no unit for products of 128 x 128, and shorter chunks have less of them.
        chunk = S4_CHUNK if self.execution.platform == "tpu" else S4_CHUNK // 2
        y, state = run(self._system(d), u, state, method=method, chunk=chunk)
        y = y + self.param("D", nn.initializers.normal(1.0), (d,))[None, None] * u
        y = jax.nn.gelu(y, approximate=False).astype(x.dtype)
        mix = dense(
            2 * d if config.glu else d,
            self.execution,
            kernel_init=torch_uniform(d),
            bias_init=torch_uniform(d),
            name="output_projection",
        )
        return nn.glu(mix(y)) if config.glu else mix(y), state

    def _system(self, d: int) -> System:
        """The discrete state space of the parameters."""
        config, pairs = self.config, self.config.state_size // 2
        rows = 1 if config.tied else d
        if isinstance(config, S4DConfig):
            modes = hippo.diagonal(config.init, pairs)
        else:
            modes = hippo.legs(pairs)

        def constant(name: str, value: np.ndarray) -> Array:
            rows_of_value = np.broadcast_to(np.float32(value), (rows, *value.shape))
            return self.param(
                name, lambda key, shape: jnp.asarray(rows_of_value), rows_of_value.shape
            )

        def planes(value: np.ndarray) -> np.ndarray:
            return np.stack([value.real, value.imag], axis=-1)

        a_real = constant("A_real", np.full(pairs, math.log(0.5)))
        a = Planes(-jnp.exp(a_real), -constant("A_imag", modes.frequency))
        b = _split(constant("B", planes(modes.b)))
        c = _split(self.param("C", _normal, (d, pairs, 2)))
        dt = jax.nn.softplus(
            self.param("inv_dt", init_time_step(config.dt_min, config.dt_max), (d,))
        )
        if isinstance(config, S4DConfig):
            return DiagonalSystem(dt=dt, a=a, b=b, c=c)
        p = _split(constant("P", planes(modes.p)))
        return LowRankSystem(dt, a, p, b, c, in_loops=self.execution.platform == "tpu")

    @nn.nowrap
    def init_state(self, batch: int, width: int) -> Float[Array, "b d s"]:
        """Zeros in float32."""
        return jnp.zeros((batch, width, self.config.state_size), jnp.float32)


def _split(x: Float[Array, "d n 2"]) -> Planes:
    return Planes(x[..., 0], x[..., 1])
