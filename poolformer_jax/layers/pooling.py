"""Down-pool and causal up-pool, over whole sequences and one step at a time.

Both are strided (transposed) convolutions whose kernel equals their stride, so every coarse step
sees exactly f fine steps. Coarse step l is complete with fine step l f + f - 1, and the up-pool
delivers its f outputs at the fine steps l f + f - 1 ... l f + 2 f - 2: a delay of f - 1 that makes
the pair causal.

Groups: with g groups, each output channel sees d / g input channels. g = d (one tap per channel
and phase) is the stable baseline; g = 1 (full matrices) is reported very unstable.

Source: Gallo Fernandez 2025, arXiv:2510.02206.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int


class DownPool(nn.Module):
    """Strided convolution y_l = sum_j x_{l f + j} K_j + bias.

    Attributes:
      factor: f.
      in_features: Width of the input.
      features: Width of the output.
      groups: g, a divisor of both widths.
      dtype: Type of the activations.
    """

    factor: int
    in_features: int
    features: int
    groups: int
    dtype: DTypeLike = jnp.float32

    def setup(self):
        shape = (self.factor, self.in_features // self.groups, self.features)
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b l o"]:
        """Pools whole windows: t is a multiple of the factor, l = t / factor."""
        kernel, bias = self.kernel.astype(self.dtype), self.bias.astype(self.dtype)
        b, t, d = x.shape
        if self.groups == self.in_features == self.features:
            # Clips and windows are one axis: otherwise, with one clip a device, XLA sums the taps'
            # gradient over devices before it sums it over time, and moves l times the bytes.
            windows = x.reshape(-1, self.factor, d)
            y = jnp.sum(windows * kernel[None, :, 0], axis=1)
            return y.reshape(b, t // self.factor, d) + bias[None, None]
        windows = x.reshape(b, t // self.factor, self.factor, self.groups, d // self.groups)
        y = jnp.einsum("blfgi,figo->blgo", windows, _split_groups(kernel, self.groups))
        return y.reshape(b, t // self.factor, self.features) + bias[None, None]

    def step(
        self, x: Float[Array, "b d"], partial: Float[Array, "b o"], phase: Int[Array, ""]
    ) -> Float[Array, "b o"]:
        """Adds the fine step of this phase to the window's sum.

        The sum of a new window (phase 0) starts from the bias; after phase f - 1 it is y_l. It is
        kept in float32, in which a sum over a whole window accumulates too.
        """
        tap = jax.lax.dynamic_index_in_dim(self.kernel, phase, keepdims=False)
        start = jnp.where(phase == 0, jnp.broadcast_to(self.bias, partial.shape), partial)
        return start + _apply_tap(x.astype(jnp.float32), tap, self.groups)


class UpPool(nn.Module):
    """Causal transposed convolution u_{l f + r} = y_l K_r + bias, delayed by f - 1 steps.

    Its state is the last coarse step, whose outputs 1 ... f - 1 are still to be delivered. Before
    the first coarse step there is nothing to deliver: those f - 1 outputs are exactly 0, without
    the bias.

    Attributes:
      factor: f.
      in_features: Width of the input.
      features: Width of the output.
      groups: g, a divisor of both widths.
      init_scale: Variance scale of the taps, 1 / number of residual blocks beside the pool.
      dtype: Type of the activations.
    """

    factor: int
    in_features: int
    features: int
    groups: int
    init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        shape = (self.factor, self.in_features // self.groups, self.features)
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        self.kernel = self.param("kernel", init, shape)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))

    def __call__(
        self, y: Float[Array, "b l i"], last: Float[Array, "b i"], started: Bool[Array, ""]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b i"]]:
        """Up-pools l coarse steps into t = l f fine steps.

        Args:
          y: Coarse steps.
          last: The coarse step before y, from the state.
          started: Whether `last` is real; False at the start of the sequence.

        Returns:
          (u, the new `last`).
        """
        kernel, bias = self.kernel.astype(self.dtype), self.bias.astype(self.dtype)
        b, length, i = y.shape
        steps = jnp.concatenate([last[:, None].astype(y.dtype), y], axis=1)
        if self.groups == self.in_features == self.features:
            fine = steps.reshape(-1, 1, i) * kernel[None, :, 0]  # One axis, as in the down-pool.
        else:
            grouped = steps.reshape(b, length + 1, self.groups, i // self.groups)
            fine = jnp.einsum("blgi,figo->blfgo", grouped, _split_groups(kernel, self.groups))
        fine = fine.reshape(b, (length + 1) * self.factor, self.features) + bias[None, None]
        # Output 0 of `last` was delivered with the step that completed it.
        u = fine[:, 1 : 1 + length * self.factor]
        silent = ~started & (jnp.arange(length * self.factor) < self.factor - 1)
        return jnp.where(silent[None, :, None], 0, u), y[:, -1]

    def step(
        self, last: Float[Array, "b i"], phase: Int[Array, ""], started: Bool[Array, ""]
    ) -> Float[Array, "b d"]:
        """Returns the output at a fine step, whose phase is t mod f.

        `last` is the newest complete coarse step: at phase f - 1 the one completed just now.
        """
        kernel, bias = self.kernel.astype(self.dtype), self.bias.astype(self.dtype)
        tap = jax.lax.dynamic_index_in_dim(kernel, (phase + 1) % self.factor, keepdims=False)
        u = _apply_tap(last.astype(self.dtype), tap, self.groups) + bias[None]
        return jnp.where(started, u, jnp.zeros_like(u))


def _split_groups(kernel: Float[Array, "f i o"], groups: int) -> Float[Array, "f i g o2"]:
    return kernel.reshape(*kernel.shape[:2], groups, kernel.shape[2] // groups)


def _apply_tap(x: Float[Array, "b d"], tap: Float[Array, "i o"], groups: int) -> Array:
    b, d = x.shape
    if groups == d == tap.shape[1]:
        return x * tap
    grouped = x.reshape(b, groups, d // groups)
    y = jnp.einsum("bgi,igo->bgo", grouped, tap.reshape(tap.shape[0], groups, -1))
    return y.reshape(b, tap.shape[1])
