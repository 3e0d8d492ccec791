"""The real-gated linear recurrent unit (RG-LRU), complex and real."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from poolformer_jax.layers.linear import BlockDiagonalLinear
from poolformer_jax.ops.bounded_sqrt import bounded_sqrt
from poolformer_jax.ops.phasor import phasor
from poolformer_jax.ops.scan import ScanImplementation, linear_scan
from poolformer_jax.typing import Planes, RealOrPlanes

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
      recurrent_width: e; the recurrence has e / 2 complex or e real channels.
      num_gate_blocks: Blocks of the gates' block-diagonal matrices.
      complex: Complex (the baseline) or real recurrence without a phase.
      decay_exponent: The constant 8 in log|a_t|.
      max_phase: theta ~ U[0, max_phase]; the baseline's pi / 10 is a small part of the ring.
      scan: Implementation of the recurrence.
      dtype: Type of the activations.

    Source: De et al. 2024, arXiv:2402.19427, section 2.4; Gallo Fernandez 2025, arXiv:2510.02206.
    """

    recurrent_width: int
    num_gate_blocks: int
    complex: bool = True
    decay_exponent: float = 8.0
    max_phase: float = math.pi / 10
    scan: ScanImplementation = "associative"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], h0: RealOrPlanes
    ) -> tuple[Float[Array, "b t d"], RealOrPlanes]:
        """Runs the recurrence from state h0 [b, c] over x; returns (out, last state)."""
        channels = num_channels(self.recurrent_width, self.complex)
        u = nn.Dense(self.recurrent_width, dtype=self.dtype, name="input_projection")(x)
        u = u.astype(jnp.float32)

        def gate(name: str) -> Float[Array, "b t c"]:
            linear = BlockDiagonalLinear(channels, self.num_gate_blocks, name=name)
            return jax.nn.sigmoid(linear(u))

        gate_x, gate_a = gate("input_gate"), gate("recurrence_gate")
        decay = self.param("decay", init_decay, (channels,))
        log_a = -self.decay_exponent * gate_a * jax.nn.softplus(decay)
        # 1 - |a|^2 by expm1: the difference would lose all its digits where |a| is close to 1.
        drive = bounded_sqrt(-jnp.expm1(2.0 * log_a)) * gate_x
        magnitude = jnp.exp(log_a)
        if self.complex:
            theta = self.param("theta", nn.initializers.uniform(self.max_phase), (channels,))
            direction = phasor(gate_a * theta)
            a = Planes(magnitude * direction.real, magnitude * direction.imag)
            x_planes = Planes(drive * u[..., :channels], drive * u[..., channels:])
            h, h_last = linear_scan(a, x_planes, h0=h0, implementation=self.scan)
            features = jnp.concatenate([h.real, h.imag], axis=-1)
        else:
            assert not isinstance(h0, Planes)
            features, h_last = linear_scan(magnitude, drive * u, h0=h0, implementation=self.scan)
        out = nn.Dense(x.shape[-1], dtype=self.dtype, name="output_projection")(features)
        return out, h_last


def num_channels(recurrent_width: int, complex: bool) -> int:
    """Channels of the recurrence: two real columns of the projection make one complex channel."""
    return recurrent_width // 2 if complex else recurrent_width


def init_rg_lru_state(batch: int, recurrent_width: int, complex: bool) -> RealOrPlanes:
    """Zero state [b, c] in float32, as `Planes` if complex."""
    zeros = jnp.zeros((batch, num_channels(recurrent_width, complex)), jnp.float32)
    return Planes(zeros, zeros) if complex else zeros
