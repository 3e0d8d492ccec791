"""Residual blocks: a normalised branch, an optional gate, a projection back, dropout.

One "layer" of a Poolformer is a mixer block (the branch mixes time, in the baseline
by an RG-LRU) followed by an MLP block (the branch is a dense layer):

    z = norm(x)
    y = branch(z) * gelu(z W_s + b_s)        (gating off: y = gelu(branch(z)))
    x = x + dropout(y W_m + b_m)

Dropout is active exactly when the caller passes a `dropout` key.

Source: Gallo Fernandez 2025, arXiv:2510.02206; De et al. 2024, arXiv:2402.19427, figure 2.
"""

from __future__ import annotations

from typing import Any, assert_never

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from poolformer_jax.layers.config import BlockConfig, ExecutionConfig, NormKind
from poolformer_jax.layers.initialization import scaled_normal
from poolformer_jax.layers.linear import dense
from poolformer_jax.layers.mixer import MixerState
from poolformer_jax.ops.scan import SCAN_STATES
from poolformer_jax.ops.scan_sharded import steps_before

CONVOLUTION_WIDTH = 3


@struct.dataclass
class LayerState:
    """What a layer remembers.

    Attributes:
      mixer: State of the mixer.
      convolution: [b, 2, d] last inputs of the temporal convolution; None without one.
    """

    mixer: MixerState
    convolution: Array | None


class MixerBlock(nn.Module):
    """Residual block that mixes along time.

    Attributes:
      config: What the block is made of; its mixer is the one of this level's width.
      init_scale: Variance scale of the projection back to d, 1 / number of residual blocks.
    """

    config: BlockConfig
    init_scale: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: LayerState
    ) -> tuple[Float[Array, "b t d"], LayerState]:
        config = self.config
        z = normalize(config.norm, config.dtype, x)
        main, convolution = z, state.convolution
        if config.temporal_convolution:
            assert state.convolution is not None
            before, convolution = steps_before(state.convolution, z)
            past = jnp.concatenate([before, z], axis=1)
            main = nn.Conv(
                x.shape[-1],
                (CONVOLUTION_WIDTH,),
                padding="VALID",
                dtype=config.dtype,
                name="temporal_convolution",
            )(past)
            main = normalize("layer_norm", config.dtype, main, name="temporal_norm")
        mixer = config.mixer.build(config, name=config.mixer.kind)
        main, mixed = mixer(main, state.mixer)
        x = x + GatedMerge(config, self.init_scale, name="merge")(main, z)
        return x, LayerState(mixer=mixed, convolution=convolution)

    @nn.nowrap
    def init_state(self, batch: int, width: int) -> LayerState:
        """Zeros; the width is d."""
        convolution = None
        if self.config.temporal_convolution:
            shape = (batch, CONVOLUTION_WIDTH - 1, width)
            convolution = jnp.zeros(shape, self.config.dtype)
        mixer = self.config.mixer.build(self.config).init_state(batch, width)
        return LayerState(mixer=mixer, convolution=convolution)


class MLPBlock(nn.Module):
    """Residual block that acts on each step alone; the attributes are those of `MixerBlock`."""

    config: BlockConfig
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        config = self.config
        z = normalize(config.norm, config.dtype, x)
        main = dense(config.mlp_expansion * x.shape[-1], config, name="value")(z)
        return x + GatedMerge(config, self.init_scale, name="merge")(main, z)


class GatedMerge(nn.Module):
    """The end of both blocks: multiply by the gate branch, project back to d, drop out."""

    config: BlockConfig
    init_scale: float

    @nn.compact
    def __call__(
        self, main: Float[Array, "b t m"], z: Float[Array, "b t d"]
    ) -> Float[Array, "b t d"]:
        config = self.config
        if config.gating:
            gate = dense(main.shape[-1], config, name="gate")(z)
            y = main * nn.gelu(gate, approximate=True)
        else:
            y = nn.gelu(main, approximate=True)
        y = dense(
            z.shape[-1],
            config,
            kernel_init=scaled_normal(self.init_scale),
            name="projection",
        )(y)
        return nn.Dropout(config.dropout, deterministic=not self.has_rng("dropout"))(y)


class Layer(nn.Module):
    """Mixer block, then MLP block; the attributes are those of `MixerBlock`."""

    config: BlockConfig
    init_scale: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: LayerState
    ) -> tuple[Float[Array, "b t d"], LayerState]:
        mixer_block, mlp_block = MixerBlock, MLPBlock
        if self.config.remat == "half_block":
            mixer_block, mlp_block = recomputed(MixerBlock), recomputed(MLPBlock)
        x, state = mixer_block(self.config, self.init_scale, name="mixer")(x, state)
        return mlp_block(self.config, self.init_scale, name="mlp")(x), state


class LayerStack(nn.Module):
    """`num_layers` layers in a row, compiled once: parameters and states have a leading axis.

    Attributes:
      config: What each layer is made of.
      width: d.
      num_layers: How many; 0 is the identity.
      init_scale: See `MixerBlock`.
    """

    config: BlockConfig
    width: int
    num_layers: int
    init_scale: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: LayerState
    ) -> tuple[Float[Array, "b t d"], LayerState]:
        if self.num_layers == 0:
            return x, state
        layers = stacked(Layer, self.config, self.num_layers)
        return layers(self.config, self.init_scale, name="layers")(x, state)

    @nn.nowrap
    def init_state(self, batch: int) -> LayerState:
        """Zeros, with a leading axis of layers."""
        return stacked_state(MixerBlock(self.config).init_state(batch, self.width), self.num_layers)


def stacked(layer: type[nn.Module], execution: ExecutionConfig, num_layers: int) -> Any:
    """So many layers in a row, compiled once: all but the first argument have a leading axis.

    The layer returns (output, something), and the stack the last output and all of these. What
    its backward pass recomputes is the execution's `remat`, but for the half blocks within.
    """
    layer = {
        "block": recomputed(layer),
        "elementwise": recomputed(layer, saved=_PRODUCTS_AND_STATES),
    }.get(execution.remat, layer)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=num_layers,
        check_constancy_invariants=False,  # The check would trace each stack twice.
    )


def stacked_state(state: Any, num_layers: int) -> Any:
    """The state of one layer for all of a stack."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_layers, *leaf.shape)), state)


_PRODUCTS_AND_STATES = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.checkpoint_dots,
    jax.checkpoint_policies.save_only_these_names(SCAN_STATES),
)


def recomputed(block: type[nn.Module], *, saved: Any = None) -> Any:
    """A module whose backward pass recomputes its inside, but for what a policy saves."""
    # Inside a loop over layers nothing can be merged with the recomputation anyway.
    return nn.remat(block, prevent_cse=False, policy=saved)


class ScalarNorm(nn.Module):
    """LayerNorm with one scale and one shift for all channels: scale (x - mean + shift) / std.

    Source: Goel et al. 2022, arXiv:2202.09729 (released code).
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        scale = self.param("scale", nn.initializers.ones_init(), (1,))
        shift = self.param("bias", nn.initializers.zeros_init(), (1,))
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        # There is no epsilon in the source; this one keeps a constant x from dividing by 0.
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + 1e-12
        return scale[None, None] * (centred + shift[None, None]) * jax.lax.rsqrt(variance)


def normalize(
    kind: NormKind,
    dtype: DTypeLike,
    x: Float[Array, "b t d"],
    *,
    name: str = "norm",
    epsilon: float = 1e-6,
) -> Float[Array, "b t d"]:
    """Applies a normalisation over d inside a compact method; statistics in float32."""
    wide = x.astype(jnp.float32)
    match kind:
        case "layer_norm":
            # The fast variance, E[x^2] - E[x]^2, cancels where the mean is large.
            norm = nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)
            return norm(wide).astype(dtype)
        case "rms_norm":
            return nn.RMSNorm(epsilon=epsilon, name=name)(wide).astype(dtype)
        case "scalar_norm":
            return ScalarNorm(name=name)(wide).astype(dtype)
        case "none":
            return x
        case _:
            assert_never(kind)
