"""Nested SkipBlocks: layers, pool down, the next SkipBlock, pool up, skip, layers.

The backbone of a configuration with factors (f_0, f_1, ...) is SkipBlock 0, whose inner block is
SkipBlock 1, and so on; the innermost block is the centre, layers alone. State mirrors that
structure.

Two ways to run it, in any order. `__call__` takes a chunk of a multiple of the total pooling
factor: every level runs once, on the whole chunk. `step` takes one sample: a SkipBlock's inner
block runs only at the f-th step of each window, so over a sequence the centre runs 1 / 160 as often
as level 0.

Source: Gallo Fernandez 2025, arXiv:2510.02206.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array
from jaxtyping import Float, Int

from poolformer_jax.layers.blocks import LayerStack, LayerState
from poolformer_jax.layers.embedding import LabelEmbedding
from poolformer_jax.layers.pooling import DownPool, UpPool
from poolformer_jax.models.poolformer.config import PoolformerConfig


@struct.dataclass
class SkipBlockState:
    """What a SkipBlock remembers.

    Attributes:
      pre: States of the layers before the pool (none without U-Net).
      partial: [b, d_inner] float32 sum of the down-pool's unfinished window, if there is one.
      inner: State of the inner block.
      last: [b, d_inner] newest output of the inner block, still being delivered by the up-pool.
      post: States of the layers after the pool.
    """

    pre: LayerState
    partial: Array
    inner: SkipBlockState | LayerState
    last: Array
    post: LayerState


BackboneState = SkipBlockState | LayerState


class Centre(nn.Module):
    """The innermost level: layers alone.

    Attributes:
      config: The whole model's configuration.
    """

    config: PoolformerConfig

    def setup(self):
        config, level = self.config, len(self.config.pool_factors)
        width = level_width(config, level)
        self.label = LabelEmbedding(config.num_classes, width, config.dtype)
        self.stack = layer_stack(config, level)

    @nn.nowrap
    def init_state(self, batch: int) -> LayerState:
        """Zeros."""
        return layer_stack(self.config, len(self.config.pool_factors)).init_state(batch)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        state: BackboneState,
        time: Int[Array, ""],
        labels: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t d"], BackboneState]:
        """Runs all layers; `time` is not used."""
        del time
        assert isinstance(state, LayerState)
        return self.stack(self.label(x, labels), state)

    def step(
        self,
        x: Float[Array, "b d"],
        state: BackboneState,
        time: Int[Array, ""],
        labels: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b d"], BackboneState]:
        """Runs all layers on one step."""
        y, state = self(x[:, None], state, time, labels)
        return y[:, 0], state


class SkipBlock(nn.Module):
    """Level `level` of the backbone, with everything inside it.

    Attributes:
      config: The whole model's configuration.
      level: 0 is the outermost.
    """

    config: PoolformerConfig
    level: int = 0

    def setup(self):
        config, level = self.config, self.level
        outer, inner = level_width(config, level), level_width(config, level + 1)
        groups = config.pool_groups or outer
        factor = config.pool_factors[level]
        init_scale = 1.0 / num_residual_blocks(config, level)
        self.label = LabelEmbedding(config.num_classes, outer, config.dtype)
        self.pre = layer_stack(config, level, before_pool=True)
        self.down_pool = DownPool(factor, outer, inner, groups, dtype=config.dtype)
        self.inner = make_block(config, level + 1)
        self.up_pool = UpPool(factor, inner, outer, groups, init_scale, config.dtype)
        self.post = layer_stack(config, level)

    @nn.nowrap
    def init_state(self, batch: int) -> SkipBlockState:
        """Zeros."""
        config, level = self.config, self.level
        inner_step = jnp.zeros((batch, level_width(config, level + 1)))
        return SkipBlockState(
            pre=layer_stack(config, level, before_pool=True).init_state(batch),
            partial=inner_step,  # float32, whatever the activations' type
            inner=make_block(config, level + 1).init_state(batch),
            last=inner_step.astype(config.dtype),
            post=layer_stack(config, level).init_state(batch),
        )

    def __call__(
        self,
        x: Float[Array, "b t d"],
        state: BackboneState,
        time: Int[Array, ""],
        labels: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t d"], BackboneState]:
        """Runs a chunk of as many steps as whole windows have; it may begin within one.

        Args:
          x: t is a multiple of the pooling factors from here inwards.
          state: State after `time` steps.
          time: Steps of this level before the chunk.
          labels: Class of each clip, in a model that is conditioned on it.

        Returns:
          (output, state after time + t steps).
        """
        assert isinstance(state, SkipBlockState)
        factor = self.config.pool_factors[self.level]
        x = block_input = self.label(x, labels)
        x, pre = self.pre(x, state.pre)
        pooled, partial = self.down_pool(x, state.partial, time)
        y, inner = self.inner(pooled, state.inner, time // factor, labels)
        u, last = self.up_pool(y, state.last, time)
        x, post = self._merge(block_input, x, u, state.post)
        return x, SkipBlockState(pre=pre, partial=partial, inner=inner, last=last, post=post)

    def step(
        self,
        x: Float[Array, "b d"],
        state: BackboneState,
        time: Int[Array, ""],
        labels: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b d"], BackboneState]:
        """Runs one step; the inner block runs if this step completes a window.

        Args:
          x: The step's input.
          state: State after `time` steps.
          time: Steps of this level so far.
          labels: Class of each clip, in a model that is conditioned on it.

        Returns:
          (output, state after time + 1 steps).
        """
        assert isinstance(state, SkipBlockState)
        factor = self.config.pool_factors[self.level]
        x = x[:, None]
        block_input = self.label(x, labels)
        x, pre = self.pre(block_input, state.pre)
        pooled, partial = self.down_pool.step(x[:, 0], state.partial, time)

        def run_inner(block):
            return block.step(pooled, state.inner, time // factor, labels)

        def keep(block):
            del block
            return state.last, state.inner

        last, inner = nn.cond(time % factor == factor - 1, run_inner, keep, self.inner)
        u = self.up_pool.step(last, time)
        x, post = self._merge(block_input, x, u[:, None], state.post)
        return x[:, 0], SkipBlockState(pre=pre, partial=partial, inner=inner, last=last, post=post)

    def _merge(self, block_input, x, u, post_state):
        """Adds the up-pooled signal and runs the layers after the pool."""
        if self.config.skip == "short":
            return self.post(x + u, post_state)
        x, post_state = self.post(u, post_state)
        return x + block_input, post_state


def make_block(config: PoolformerConfig, level: int = 0) -> SkipBlock | Centre:
    """The block of a level: a SkipBlock, or the centre at the innermost level."""
    return Centre(config) if level == len(config.pool_factors) else SkipBlock(config, level)


def level_width(config: PoolformerConfig, level: int) -> int:
    """Model width d of a level."""
    return config.width * config.width_growth**level


def num_residual_blocks(config: PoolformerConfig, level: int) -> int:
    """Residual additions of a level, of which 1 / n is the variance scale of their last layers.

    Two blocks a layer, before and after the pool, and the up-pool; at the centre two a layer.
    """
    layers = config.layers[level]
    if level == len(config.pool_factors):
        return max(1, 2 * layers)
    return (4 if config.unet else 2) * layers + 1


def layer_stack(config: PoolformerConfig, level: int, *, before_pool: bool = False) -> LayerStack:
    """The layers of a level: after its pool, or at the centre; before it there may be none."""
    grown = config.mixer.grown(config.width_growth**level)
    return LayerStack(
        dataclasses.replace(config, mixer=grown),
        level_width(config, level),
        0 if before_pool and not config.unet else config.layers[level],
        1.0 / num_residual_blocks(config, level),
    )
