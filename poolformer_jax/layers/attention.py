"""Self-attention over a sliding window."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array
from jaxtyping import Float

from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.initialization import scaled_normal
from poolformer_jax.layers.linear import dense
from poolformer_jax.layers.mixer_config import AttentionConfig
from poolformer_jax.ops.attention import attend, attend_where, rotate
from poolformer_jax.ops.scan import choose_implementation
from poolformer_jax.ops.scan_sharded import count_before, steps_before, time_is_split


@struct.dataclass
class AttentionState:
    """The steps that later ones may look at, as a ring: step s is in slot s modulo the window.

    Attributes:
      keys: [b, m, window, h] without positions, in the activations' type. A step rotates them anew
        by their age, which stays small however long the sequence gets. Heads come first, as in the
        products of a step, which otherwise transpose the whole ring.
      values: [b, m, window, h] of the same steps.
      count: Steps so far; from two windows on modulo the window, so that it never overflows.
    """

    keys: Array
    values: Array
    count: Array


class Attention(nn.Module):
    """Causal attention of each step to the newest `window` steps, itself among them.

        q = x W_q,   k = x W_k,   v = x W_v
        y = attend(rotate(q), rotate(k), v) W_o + b_o

    Where the window is as long as the sequence, it is full causal attention. Only differences of
    positions count, so that a step needs no absolute one.

    Attributes:
      config: Heads, window, positions.
      execution: Type of the activations; whether there are kernels.

    Source: De et al. 2024, arXiv:2402.19427, section 2.3.
    """

    config: AttentionConfig
    execution: ExecutionConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: AttentionState
    ) -> tuple[Float[Array, "b t d"], AttentionState]:
        config = self.config
        b, t, d = x.shape
        size = d // config.num_heads

        def project(name: str, heads: int) -> Array:
            draw = scaled_normal(1.0)
            layer = dense(
                heads * size, self.execution, use_bias=config.bias, kernel_init=draw, name=name
            )
            return layer(x).reshape(b, t, heads, size)

        q = project("query_projection", config.num_heads)
        k = project("key_projection", config.num_kv_heads)
        v = project("value_projection", config.num_kv_heads)
        read = self._read_step if t == 1 and not time_is_split() else self._read_chunk
        y, state = read(q, k, v, state)
        merge = dense(d, self.execution, kernel_init=scaled_normal(1.0), name="output_projection")
        return merge(y.reshape(b, t, d)), state

    def _read_chunk(
        self,
        q: Float[Array, "b t n h"],
        k: Float[Array, "b t m h"],
        v: Float[Array, "b t m h"],
        state: AttentionState,
    ) -> tuple[Float[Array, "b t n h"], AttentionState]:
        config, execution, window = self.config, self.execution, self.config.window
        slots = jnp.arange(window)
        count, end = count_before(state.count, q.shape[1])
        chronological = (state.count + slots) % window
        before_k, last_k = steps_before(_swap(state.keys)[:, chronological], k)
        before_v, last_v = steps_before(_swap(state.values)[:, chronological], v)
        implementation = choose_implementation(execution.scan, execution.platform)
        keys = jnp.concatenate([before_k[:, 1:], k], axis=1)
        values = jnp.concatenate([before_v[:, 1:], v], axis=1)

        def look_back(window: int) -> Array:
            return attend(
                q,
                keys[:, config.window - window :],
                values[:, config.window - window :],
                num_before=jnp.minimum(count, window - 1),
                window=window,
                wavelength=config.wavelength,
                implementation="splash" if implementation in ("pallas", "fused") else "dense",
            )

        steps = q.shape[1]
        if steps >= window or time_is_split():
            y = look_back(window)
        else:  # At the start of a sequence, a window longer than the chunk would find nothing.
            y = jax.lax.cond(count == 0, lambda: look_back(steps), lambda: look_back(window))
        ring = (slots - end) % window
        return y, self._advance(_swap(last_k[:, ring]), _swap(last_v[:, ring]), end)

    def _read_step(
        self,
        q: Float[Array, "b 1 n h"],
        k: Float[Array, "b 1 m h"],
        v: Float[Array, "b 1 m h"],
        state: AttentionState,
    ) -> tuple[Float[Array, "b 1 n h"], AttentionState]:
        """One step over the ring, whose slots are looked at in the order in which they lie."""
        config, window = self.config, self.config.window
        slot = state.count % window
        keys = jax.lax.dynamic_update_slice_in_dim(state.keys, _swap(k), slot, axis=2)
        values = jax.lax.dynamic_update_slice_in_dim(state.values, _swap(v), slot, axis=2)
        age = (slot - jnp.arange(window)) % window
        rotated = _swap(keys)
        if config.wavelength is not None:
            rotated = rotate(rotated, -age, config.wavelength)  # The query is at position 0.
        y = attend_where(q, rotated, _swap(values), (age <= state.count)[None])
        return y, self._advance(keys, values, state.count + 1)

    def _advance(self, keys: Array, values: Array, count: Array) -> AttentionState:
        window = self.config.window
        count = jnp.where(count < 2 * window, count, window + count % window)
        return AttentionState(keys=keys, values=values, count=count)

    @nn.nowrap
    def init_state(self, batch: int, width: int) -> AttentionState:
        """Zeros, and no steps."""
        config = self.config
        shape = batch, config.num_kv_heads, config.window, width // config.num_heads
        steps = jnp.zeros(shape, self.execution.dtype)
        return AttentionState(keys=steps, values=steps, count=jnp.zeros((), jnp.int32))


def _swap(x: Array) -> Array:
    """From [b, t, m, h] to [b, m, t, h], and back."""
    return jnp.swapaxes(x, 1, 2)
