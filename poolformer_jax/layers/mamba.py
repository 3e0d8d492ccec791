"""Mamba, a selective state-space model."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.initialization import init_time_step, torch_uniform
from poolformer_jax.layers.linear import dense
from poolformer_jax.layers.mixer_config import MambaConfig
from poolformer_jax.ops.scan import choose_implementation
from poolformer_jax.ops.scan_sharded import steps_before
from poolformer_jax.ops.selective_scan import selective_scan
from poolformer_jax.typing import Planes, RealOrPlanes


@struct.dataclass
class MambaState:
    """What a block remembers, in float32.

    Attributes:
      recurrence: [b, e, n] states, as `Planes` if complex.
      convolution: [b, width - 1, e] last inputs of the convolution.
    """

    recurrence: RealOrPlanes
    convolution: Array


class Mamba(nn.Module):
    """A recurrence whose time steps and maps depend on the input, between two projections.

        [u, z] = x W_in
        u = silu(causal convolution of each channel of u + b)
        [r, B, C] = u W_selection,   dt = softplus(r W_dt + b_dt)
        h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t,   y_t = sum_n C_t h_t + D u_t
        out = (y * silu(z)) W_out

    A = -exp(a_log), plus j a_imag if complex. The softplus, the convolution and the recurrence are
    computed in float32 whatever the activations' type.

    Attributes:
      config: Sizes, and the range of the time steps.
      execution: Type of the activations, implementation of the recurrence.

    Source: Gu & Dao 2023, arXiv:2312.00752, sections 3.4 to 3.6, and the released code.
    """

    config: MambaConfig
    execution: ExecutionConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: MambaState
    ) -> tuple[Float[Array, "b t d"], MambaState]:
        config, execution, d = self.config, self.execution, x.shape[-1]
        e, rank = config.expand * d, config.rank_of(d)

        def linear(features: int, fan_in: int, name: str, scale: float = 1.0) -> nn.Dense:
            draw = torch_uniform(fan_in, scale)
            return dense(features, execution, use_bias=False, kernel_init=draw, name=name)

        u, gate = jnp.split(linear(2 * e, d, "input_projection")(x), 2, axis=-1)
        before, last_inputs = steps_before(state.convolution, u.astype(jnp.float32))
        past = jnp.concatenate([before.astype(u.dtype), u], axis=1)
        u = DepthwiseConvolution(config.convolution_width, name="convolution")(past)
        u = nn.silu(u).astype(x.dtype)

        selection = linear(rank + config.num_maps, e, "selection_projection")(u)
        dt = linear(e, rank, "time_step")(selection[..., :rank]).astype(jnp.float32)
        draw = init_time_step(config.dt_min, config.dt_max)
        dt = jax.nn.softplus(dt + self.param("time_step_bias", draw, (e,))[None, None])

        y, last = selective_scan(
            u,
            dt,
            maps=selection[..., rank:],
            a=self._a(e),
            skip=self.param("skip", nn.initializers.ones_init(), (e,)),
            h0=state.recurrence,
            implementation=choose_implementation(execution.scan, execution.platform),
        )
        y = linear(d, e, "output_projection", config.output_scale)(y * nn.silu(gate))
        return y, MambaState(recurrence=last, convolution=last_inputs)

    def _a(self, e: int) -> RealOrPlanes:
        shape = e, self.config.state_size
        if not self.config.complex:
            return -jnp.exp(self.param("a_log", log_of_counts, shape))
        half = nn.initializers.constant(math.log(0.5))
        real = -jnp.exp(self.param("a_log", half, shape))
        return Planes(real, self.param("a_imag", counts, shape))

    @nn.nowrap
    def init_state(self, batch: int, width: int) -> MambaState:
        """Zeros."""
        config, e = self.config, self.config.expand * width
        h = jnp.zeros((batch, e, config.state_size), jnp.float32)
        return MambaState(
            recurrence=Planes(h, h) if config.complex else h,
            convolution=jnp.zeros((batch, config.convolution_width - 1, e), jnp.float32),
        )


class DepthwiseConvolution(nn.Module):
    """y_t = sum_j k_j x_{t+j} + b for each channel alone, at the steps that have all taps.

    A sum of shifted products, in float32, joins what is computed before and after it.

    Attributes:
      width: Taps.
    """

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "b s e"]) -> Float[Array, "b t e"]:
        draw, e = torch_uniform(self.width), x.shape[-1]
        kernel = self.param("kernel", draw, (self.width, e))
        bias = self.param("bias", draw, (e,))
        t = x.shape[1] - self.width + 1
        taps = [x[:, j : j + t].astype(jnp.float32) for j in range(self.width)]
        return sum(kernel[None, j : j + 1] * tap for j, tap in enumerate(taps)) + bias[None, None]


def counts(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """0, 1, 2, ... along the last axis."""
    del key
    return jnp.broadcast_to(jnp.arange(shape[-1], dtype=dtype), shape)


def log_of_counts(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """The logarithms of 1, 2, 3, ... along the last axis."""
    return jnp.log1p(counts(key, shape, dtype))
