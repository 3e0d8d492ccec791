"""SaShiMi's backbone: layers, pool down, the next stage, pool up, layers.

As a U-Net, what goes into each residual branch before the pool is added to what comes out of its
mirror image after it, and so is what goes into the pool; otherwise a stage adds the input of its
pool to its output of the up-pool, and that to its own output. Nested like the SkipBlocks of the
Poolformer, and run in the same two ways, on chunks and on single steps.

Source: Goel et al. 2022, arXiv:2202.09729, section 4.2, and its released code.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array
from jaxtyping import Float, Int

from poolformer_jax.layers.blocks import normalize, recomputed, stacked, stacked_state
from poolformer_jax.layers.embedding import LabelEmbedding
from poolformer_jax.layers.initialization import torch_uniform
from poolformer_jax.layers.linear import dense
from poolformer_jax.layers.mixer import MixerState
from poolformer_jax.models.sashimi.config import SashimiConfig
from poolformer_jax.models.sashimi.pooling import DenseDownPool, DenseUpPool

EPSILON = 1e-5
"""Of all normalisations that have one, PyTorch's default."""

Inputs = tuple[Array, ...]
"""What goes into each residual branch of a layer; of a stack of layers with a leading axis."""


@struct.dataclass
class StageState:
    """What a stage remembers.

    Attributes:
      pre: States of the mixers before the pool (none without U-Net).
      partial: [b, d_inner] float32 sum of the down-pool's unfinished window, if there is one.
      inner: State of the inner stage.
      last: [b, d_inner] newest output of the inner stage, which the up-pool delivers.
      post: States of the mixers after the pool.
    """

    pre: MixerState
    partial: Array
    inner: Any
    last: Array
    post: MixerState


class MixerBranch(nn.Module):
    """x + mixer(norm(x)).

    Attributes:
      config: The whole model's configuration.
      stage: 0 is the outermost.
    """

    config: SashimiConfig
    stage: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: MixerState
    ) -> tuple[Float[Array, "b t d"], MixerState]:
        config, mixer = self.config, self.config.mixer_of(self.stage)
        z = normalize(config.norm, config.dtype, x, epsilon=EPSILON)
        y, state = mixer.build(config, name=mixer.kind)(z, state)
        return x + nn.Dropout(config.dropout, deterministic=not self.has_rng("dropout"))(y), state


class MLPBranch(nn.Module):
    """x + W' gelu(W norm(x) + b) + b'; the attributes are those of `MixerBranch`."""

    config: SashimiConfig
    stage: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        config, width = self.config, x.shape[-1]
        inside = width * config.mlp_expansion_of(self.stage)

        def linear(features: int, fan_in: int, name: str) -> nn.Dense:
            init = torch_uniform(fan_in)
            return dense(features, config, kernel_init=init, bias_init=init, name=name)

        z = normalize(config.norm, config.dtype, x, epsilon=EPSILON)
        y = nn.gelu(linear(inside, width, "expand")(z), approximate=False)
        y = linear(width, inside, "contract")(y)
        return x + nn.Dropout(config.dropout, deterministic=not self.has_rng("dropout"))(y)


class Layer(nn.Module):
    """A mixer and an MLP, if there are any; the attributes are those of `MixerBranch`."""

    config: SashimiConfig
    stage: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: MixerState, mirrored: Inputs | None
    ) -> tuple[Float[Array, "b t d"], tuple[MixerState, Inputs]]:
        """Runs both.

        Args:
          x: Input.
          state: Of the mixer.
          mirrored: What went into the branches of the mirror image; it is added to the outputs of
            these, the last of those to the first of these. None adds nothing.

        Returns:
          (output, (state, inputs of both branches)).
        """
        mixer_branch, mlp_branch = MixerBranch, MLPBranch
        if self.config.remat == "half_block":
            mixer_branch, mlp_branch = recomputed(MixerBranch), recomputed(MLPBranch)
        inputs = [x]
        x, state = mixer_branch(self.config, self.stage, name="mixer")(x, state)
        x = x if mirrored is None else x + mirrored[-1]
        if self.config.mlp_expansion_of(self.stage):
            inputs.append(x)
            x = mlp_branch(self.config, self.stage, name="mlp")(x)
            x = x if mirrored is None else x + mirrored[0]
        return x, (state, tuple(inputs))


class Stack(nn.Module):
    """The layers of a stage, before or after its pool, compiled once.

    The attributes are those of `MixerBranch`.
    """

    config: SashimiConfig
    stage: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: MixerState, mirrored: Inputs | None = None
    ) -> tuple[Float[Array, "b t d"], MixerState, Inputs | None]:
        """Runs them; see `Layer`."""
        count = self.config.layers[self.stage]
        if not count:
            return x, state, None
        # The first layer after the pool mirrors the last one before it.
        mirrored = jax.tree.map(lambda inputs: inputs[::-1], mirrored)
        layers = stacked(Layer, self.config, count)(self.config, self.stage, name="layers")
        x, (state, inputs) = layers(x, state, mirrored)
        return x, state, inputs

    @nn.nowrap
    def init_state(self, batch: int) -> MixerState:
        """Zeros, with a leading axis of layers."""
        config, width = self.config, self.config.width_of(self.stage)
        state = config.mixer_of(self.stage).build(config).init_state(batch, width)
        return stacked_state(state, config.layers[self.stage])


class Centre(nn.Module):
    """The innermost stage: layers alone, around which its input is added.

    Attributes:
      config: The whole model's configuration.
      stage: 0 is the outermost.
    """

    config: SashimiConfig
    stage: int

    def setup(self):
        config, stage = self.config, self.stage
        self.label = LabelEmbedding(config.num_classes, config.width_of(stage), config.dtype)
        self.stack = Stack(config, stage)

    @nn.nowrap
    def init_state(self, batch: int) -> MixerState:
        """Zeros."""
        return Stack(self.config, self.stage).init_state(batch)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        state: MixerState,
        time: Int[Array, ""],
        labels: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t d"], MixerState]:
        """Runs all layers; `time` is not used."""
        del time
        x = self.label(x, labels)
        y, state, _ = self.stack(x, state)
        return x + y, state

    def step(
        self,
        x: Float[Array, "b d"],
        state: MixerState,
        time: Int[Array, ""],
        labels: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b d"], MixerState]:
        """Runs all layers on one step."""
        y, state = self(x[:, None], state, time, labels)
        return y[:, 0], state


class Stage(nn.Module):
    """Stage `stage` of the backbone, with everything inside it.

    Attributes:
      config: The whole model's configuration.
      stage: 0 is the outermost.
    """

    config: SashimiConfig
    stage: int = 0

    def setup(self):
        config, stage = self.config, self.stage
        outer, inner = config.width_of(stage), config.width_of(stage + 1)
        options: dict[str, Any] = {"dtype": config.dtype, "weight_norm": config.pool_weight_norm}
        self.label = LabelEmbedding(config.num_classes, outer, config.dtype)
        if config.unet:
            self.pre = Stack(config, stage)
        self.down_pool = DenseDownPool(config.pool_factors[stage], outer, inner, **options)
        self.inner = make_stage(config, stage + 1)
        self.up_pool = DenseUpPool(config.pool_factors[stage], inner, outer, **options)
        self.post = Stack(config, stage)

    @nn.nowrap
    def init_state(self, batch: int) -> StageState:
        """Zeros."""
        config, stage = self.config, self.stage
        inner_step = jnp.zeros((batch, config.width_of(stage + 1)))
        stack = Stack(config, stage)
        return StageState(
            pre=stack.init_state(batch) if config.unet else None,
            partial=inner_step,  # float32, whatever the activations' type
            inner=make_stage(config, stage + 1).init_state(batch),
            last=inner_step.astype(config.dtype),
            post=stack.init_state(batch),
        )

    def __call__(
        self,
        x: Float[Array, "b t d"],
        state: StageState,
        time: Int[Array, ""],
        labels: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b t d"], StageState]:
        """Runs a chunk of as many steps as whole windows have; it may begin within one.

        Args:
          x: t is a multiple of the pooling factors from here inwards.
          state: State after `time` steps.
          time: Steps of this stage before the chunk.
          labels: Class of each clip, in a model that is conditioned on it.

        Returns:
          (output, state after time + t steps).
        """
        x, pre, mirrored = self._before_pool(self.label(x, labels), state.pre)
        pooled, partial = self.down_pool(x, state.partial, time)
        factor = self.config.pool_factors[self.stage]
        y, inner = self.inner(pooled, state.inner, time // factor, labels)
        u, last = self.up_pool(y, state.last, time)
        x, post = self._after_pool(x, u, state.post, mirrored)
        return x, StageState(pre=pre, partial=partial, inner=inner, last=last, post=post)

    def step(
        self,
        x: Float[Array, "b d"],
        state: StageState,
        time: Int[Array, ""],
        labels: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b d"], StageState]:
        """Runs one step; the inner stage runs if this step completes a window.

        Args:
          x: The step's input.
          state: State after `time` steps.
          time: Steps of this stage so far.
          labels: Class of each clip, in a model that is conditioned on it.

        Returns:
          (output, state after time + 1 steps).
        """
        factor = self.config.pool_factors[self.stage]
        x, pre, mirrored = self._before_pool(self.label(x[:, None], labels), state.pre)
        pooled, partial = self.down_pool.step(x[:, 0], state.partial, time)

        def run_inner(stage):
            return stage.step(pooled, state.inner, time // factor, labels)

        def keep(stage):
            del stage
            return state.last, state.inner

        last, inner = nn.cond(time % factor == factor - 1, run_inner, keep, self.inner)
        # What was completed just now is delivered from the next step on.
        u = self.up_pool.step(state.last, time)
        x, post = self._after_pool(x, u[:, None], state.post, mirrored)
        return x[:, 0], StageState(pre=pre, partial=partial, inner=inner, last=last, post=post)

    def _before_pool(self, x, state):
        return self.pre(x, state) if self.config.unet else (x, None, None)

    def _after_pool(self, x, u, state, mirrored):
        """Adds the up-pooled signal to the input of the pool, and runs the layers."""
        x = x + u
        y, state, _ = self.post(x, state, mirrored)
        return (y if self.config.unet else y + x), state


def make_stage(config: SashimiConfig, stage: int = 0) -> Stage | Centre:
    """A stage: at the innermost one the centre."""
    center = stage == len(config.pool_factors)
    return Centre(config, stage) if center else Stage(config, stage)
