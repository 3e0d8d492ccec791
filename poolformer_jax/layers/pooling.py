"""Down-pool and causal up-pool, over chunks and one step at a time.

Both are strided (transposed) convolutions whose kernel equals their stride, so every coarse step
sees exactly f fine steps. Coarse step l is complete with fine step l f + f - 1, and the up-pool
delivers its f outputs at the fine steps l f + f - 1 ... l f + 2 f - 2: a delay of f - 1 that makes
the pair causal. A delay of f, one step more than need be, is that of the U-Net of SaShiMi.

A chunk of l f fine steps completes l coarse steps wherever in a window it begins, so its phase, the
number of steps before it modulo f, changes no shape and may be traced.

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
from jaxtyping import Float, Int

from poolformer_jax.layers.initialization import LECUN_NORMAL, scaled_normal
from poolformer_jax.ops.scan_sharded import steps_before


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
        self.kernel = self.param("kernel", LECUN_NORMAL, shape)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))

    def __call__(
        self, x: Float[Array, "b t d"], partial: Float[Array, "b o"], time: Int[Array, ""]
    ) -> tuple[Float[Array, "b l o"], Float[Array, "b o"]]:
        """Pools a chunk.

        Args:
          x: Fine steps; t = l f.
          partial: From the state: the sum, without bias, over the steps of the window that the
            chunk begins within. It is not used if the chunk begins with a window.
          time: Fine steps before the chunk.

        Returns:
          (coarse steps, the same sum for the window that the chunk ends within; in float32, in
          which a sum over a whole window accumulates too).
        """
        b, _, d = x.shape
        # Every f steps of the chunk hold the end of one window and the beginning of the next.
        phase = time % self.factor
        ends = (jnp.arange(self.factor) < self.factor - phase)[None, :, None]
        kernel = jnp.concatenate([self.kernel, self.kernel]).astype(self.dtype)
        kernel = jax.lax.dynamic_slice_in_dim(kernel, phase, self.factor)
        windows = x.reshape(-1, self.factor, d)
        end = self._sum(jnp.where(ends, windows, 0), kernel).reshape(b, -1, self.features)
        begin = self._sum(jnp.where(ends, 0, windows), kernel).reshape(b, -1, self.features)
        first = jnp.where(phase == 0, 0, partial)[:, None]
        before, last = steps_before(first, begin)
        y = jnp.concatenate([before, begin[:, :-1]], axis=1) + end + self.bias[None, None]
        return y.astype(self.dtype), last[:, 0]

    def step(
        self, x: Float[Array, "b d"], partial: Float[Array, "b o"], time: Int[Array, ""]
    ) -> tuple[Float[Array, "b o"], Float[Array, "b o"]]:
        """Adds one fine step to the window's sum.

        Returns:
          (the coarse step, if this was the last of its window; the sum).
        """
        phase = time % self.factor
        tap = jax.lax.dynamic_index_in_dim(self.kernel, phase, keepdims=False)
        partial = jnp.where(phase == 0, 0, partial)
        partial += _apply_tap(x.astype(jnp.float32), tap, self.groups)
        return (partial + self.bias[None]).astype(self.dtype), partial

    def _sum(self, windows: Float[Array, "n f d"], kernel: Float[Array, "f i o"]) -> Array:
        """Applies the taps to windows, clips and windows being one axis: [n, o] in float32."""
        if self.groups == windows.shape[2] == self.features:
            # One axis, because with one clip a device XLA sums the taps' gradient over devices
            # before it sums it over time, and moves l times the bytes.
            return jnp.sum(windows * kernel[None, :, 0], axis=1, dtype=jnp.float32)
        windows = windows.reshape(*windows.shape[:2], self.groups, -1)
        kernel = _split_groups(kernel, self.groups)
        y = jnp.einsum("nfgi,figo->ngo", windows, kernel, preferred_element_type=jnp.float32)
        return y.reshape(-1, self.features)


class UpPool(nn.Module):
    """Causal transposed convolution u_{l f + r} = y_l K_r + bias, delayed.

    Its state is the last coarse step, whose outputs are still to be delivered. Before the first
    coarse step there is nothing to deliver: those outputs are exactly 0, without the bias.

    Attributes:
      factor: f.
      in_features: Width of the input.
      features: Width of the output.
      groups: g, a divisor of both widths.
      init_scale: Variance scale of the taps, 1 / number of residual blocks beside the pool.
      dtype: Type of the activations.
      spare: Steps of delay beyond f - 1: 0 or 1.
    """

    factor: int
    in_features: int
    features: int
    groups: int
    init_scale: float = 1.0
    dtype: DTypeLike = jnp.float32
    spare: int = 0

    def setup(self):
        shape = (self.factor, self.in_features // self.groups, self.features)
        self.kernel = self.param("kernel", scaled_normal(self.init_scale), shape)
        self.bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))

    def __call__(
        self, y: Float[Array, "b l i"], last: Float[Array, "b i"], time: Int[Array, ""]
    ) -> tuple[Float[Array, "b t d"], Float[Array, "b i"]]:
        """Up-pools the l coarse steps that a chunk of t = l f fine steps completes.

        Args:
          y: Coarse steps.
          last: The coarse step before y, from the state.
          time: Fine steps before the chunk.

        Returns:
          (u, the new `last`).
        """
        kernel, bias = self.kernel.astype(self.dtype), self.bias.astype(self.dtype)
        b, length, i = y.shape
        before, end = steps_before(last[:, None].astype(y.dtype), y)
        steps = jnp.concatenate([before, y], axis=1)
        if self.groups == self.in_features == self.features:
            fine = steps.reshape(-1, 1, i) * kernel[None, :, 0]  # One axis, as in the down-pool.
        else:
            grouped = steps.reshape(b, length + 1, self.groups, i // self.groups)
            fine = jnp.einsum("blgi,figo->blfgo", grouped, _split_groups(kernel, self.groups))
        every = bias[None] if bias.ndim == 1 else jnp.tile(bias, (length + 1, 1))
        fine = fine.reshape(b, (length + 1) * self.factor, self.features) + every[None]
        # Without a spare step, output 0 of `last` was delivered with the step that completed it.
        chunk, undelivered = length * self.factor, time % self.factor + 1 - self.spare
        u = jax.lax.dynamic_slice_in_dim(fine, undelivered, chunk, axis=1)
        silent = time + jnp.arange(chunk) < self._delay
        return jnp.where(silent[None, :, None], 0, u), end[:, 0]

    def step(self, last: Float[Array, "b i"], time: Int[Array, ""]) -> Float[Array, "b d"]:
        """Returns the output at the fine step after `time` steps.

        `last` is the newest complete coarse step: at the end of a window the one completed just
        now, unless there is a spare step of delay.
        """
        kernel, bias = self.kernel.astype(self.dtype), self.bias.astype(self.dtype)
        bias = jnp.broadcast_to(bias, (self.factor, self.features))
        phase = (time + 1 - self.spare) % self.factor
        tap, bias = (
            jax.lax.dynamic_index_in_dim(taps, phase, keepdims=False) for taps in (kernel, bias)
        )
        u = _apply_tap(last.astype(self.dtype), tap, self.groups) + bias[None]
        return jnp.where(time < self._delay, jnp.zeros_like(u), u)

    @property
    def _delay(self) -> int:
        return self.factor - 1 + self.spare


def _split_groups(kernel: Float[Array, "f i o"], groups: int) -> Float[Array, "f i g o2"]:
    return kernel.reshape(*kernel.shape[:2], groups, kernel.shape[2] // groups)


def _apply_tap(x: Float[Array, "b d"], tap: Float[Array, "i o"], groups: int) -> Array:
    b, d = x.shape
    if groups == d == tap.shape[1]:
        return x * tap
    grouped = x.reshape(b, groups, d // groups)
    y = jnp.einsum("bgi,igo->bgo", grouped, tap.reshape(tap.shape[0], groups, -1))
    return y.reshape(b, tap.shape[1])
