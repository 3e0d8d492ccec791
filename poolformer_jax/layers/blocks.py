"""Residual blocks: a normalised branch, an optional gate, a projection back, dropout.

One "layer" of a Poolformer is a mixer block (the branch is an RG-LRU) followed by an MLP block
(the branch is a dense layer):

    z = norm(x)
    y = branch(z) * gelu(z W_s + b_s)        (gating off: y = gelu(branch(z)))
    x = x + dropout(y W_m + b_m)

Dropout is active exactly when the caller passes a `dropout` key.

Source: Gallo Fernandez 2025, arXiv:2510.02206; De et al. 2024, arXiv:2402.19427, figure 2.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, assert_never

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from poolformer_jax.layers.rg_lru import RGLRU, init_rg_lru_state
from poolformer_jax.ops.scan import ScanImplementation
from poolformer_jax.typing import RealOrPlanes

NormKind = Literal["layer_norm", "rms_norm", "none"]
CONVOLUTION_WIDTH = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """What one layer (mixer block, then MLP block) is made of.

    Attributes:
      width: d.
      recurrent_width: e.
      mlp_width: Width inside the MLP block.
      num_gate_blocks: Blocks of the RG-LRU's gates.
      complex: Complex or real recurrence.
      decay_exponent: See `RGLRU`.
      max_phase: See `RGLRU`.
      norm: Normalisation in front of each branch.
      gating: Whether the branch is multiplied by a gelu branch.
      temporal_convolution: Whether a causal convolution and a LayerNorm precede the RG-LRU.
      dropout: Rate at the end of each block.
      init_scale: Variance scale of the projection back to d, 1 / number of residual blocks.
      scan: Implementation of the recurrence.
      remat: Recompute each block in the backward pass instead of storing its inside.
      dtype: Type of the activations.
    """

    width: int
    recurrent_width: int
    mlp_width: int
    num_gate_blocks: int
    complex: bool = True
    decay_exponent: float = 8.0
    max_phase: float = math.pi / 10
    norm: NormKind = "layer_norm"
    gating: bool = True
    temporal_convolution: bool = False
    dropout: float = 0.0
    init_scale: float = 1.0
    scan: ScanImplementation = "associative"
    remat: bool = False
    dtype: DTypeLike = jnp.float32


@struct.dataclass
class LayerState:
    """What a layer remembers.

    Attributes:
      recurrence: [b, c] state of the RG-LRU, float32.
      convolution: [b, 2, d] last inputs of the temporal convolution; None without one.
    """

    recurrence: RealOrPlanes
    convolution: Array | None


def init_layer_state(spec: LayerSpec, batch: int) -> LayerState:
    """Zero state of one layer."""
    convolution = None
    if spec.temporal_convolution:
        convolution = jnp.zeros((batch, CONVOLUTION_WIDTH - 1, spec.width), spec.dtype)
    recurrence = init_rg_lru_state(batch, spec.recurrent_width, spec.complex)
    return LayerState(recurrence=recurrence, convolution=convolution)


class MixerBlock(nn.Module):
    """Residual block that mixes along time by an RG-LRU."""

    spec: LayerSpec

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: LayerState
    ) -> tuple[Float[Array, "b t d"], LayerState]:
        spec = self.spec
        z = normalize(spec.norm, spec.dtype, x)
        main, convolution = z, state.convolution
        if spec.temporal_convolution:
            assert state.convolution is not None
            past = jnp.concatenate([state.convolution, z], axis=1)
            main = nn.Conv(
                spec.width,
                (CONVOLUTION_WIDTH,),
                padding="VALID",
                dtype=spec.dtype,
                name="temporal_convolution",
            )(past)
            main = normalize("layer_norm", spec.dtype, main, name="temporal_norm")
            convolution = past[:, -(CONVOLUTION_WIDTH - 1) :]
        main, recurrence = RGLRU(
            recurrent_width=spec.recurrent_width,
            num_gate_blocks=spec.num_gate_blocks,
            complex=spec.complex,
            decay_exponent=spec.decay_exponent,
            max_phase=spec.max_phase,
            scan=spec.scan,
            dtype=spec.dtype,
            name="rg_lru",
        )(main, state.recurrence)
        x = x + GatedMerge(spec, name="merge")(main, z)
        return x, LayerState(recurrence=recurrence, convolution=convolution)


class MLPBlock(nn.Module):
    """Residual block that acts on each step alone."""

    spec: LayerSpec

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        spec = self.spec
        z = normalize(spec.norm, spec.dtype, x)
        main = nn.Dense(spec.mlp_width, dtype=spec.dtype, name="value")(z)
        return x + GatedMerge(spec, name="merge")(main, z)


class GatedMerge(nn.Module):
    """The end of both blocks: multiply by the gate branch, project back to d, drop out."""

    spec: LayerSpec

    @nn.compact
    def __call__(
        self, main: Float[Array, "b t m"], z: Float[Array, "b t d"]
    ) -> Float[Array, "b t d"]:
        spec = self.spec
        if spec.gating:
            gate = nn.Dense(main.shape[-1], dtype=spec.dtype, name="gate")(z)
            y = main * nn.gelu(gate, approximate=True)
        else:
            y = nn.gelu(main, approximate=True)
        y = nn.Dense(
            spec.width,
            dtype=spec.dtype,
            kernel_init=nn.initializers.variance_scaling(spec.init_scale, "fan_in", "normal"),
            name="projection",
        )(y)
        return nn.Dropout(spec.dropout, deterministic=not self.has_rng("dropout"))(y)


class Layer(nn.Module):
    """Mixer block, then MLP block."""

    spec: LayerSpec

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: LayerState
    ) -> tuple[Float[Array, "b t d"], LayerState]:
        mixer_block, mlp_block = MixerBlock, MLPBlock
        if self.spec.remat:
            # Inside a loop over layers nothing can be merged with the recomputation anyway.
            mixer_block = nn.remat(MixerBlock, prevent_cse=False)
            mlp_block = nn.remat(MLPBlock, prevent_cse=False)
        x, state = mixer_block(self.spec, name="mixer")(x, state)
        return mlp_block(self.spec, name="mlp")(x), state


class LayerStack(nn.Module):
    """`num_layers` layers in a row, compiled once: parameters and states have a leading axis.

    Attributes:
      spec: What each layer is made of.
      num_layers: How many; 0 is the identity.
    """

    spec: LayerSpec
    num_layers: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], state: LayerState
    ) -> tuple[Float[Array, "b t d"], LayerState]:
        if self.num_layers == 0:
            return x, state
        scanned = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.num_layers,
        )
        return scanned(self.spec, name="layers")(x, state)


def init_stack_state(spec: LayerSpec, num_layers: int, batch: int) -> LayerState:
    """Zero states of a stack, with a leading axis of layers."""
    one = init_layer_state(spec, batch)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_layers, *leaf.shape)), one)


def normalize(
    kind: NormKind, dtype: DTypeLike, x: Float[Array, "b t d"], *, name: str = "norm"
) -> Float[Array, "b t d"]:
    """Applies a normalisation over d inside a compact method; statistics in float32."""
    match kind:
        case "layer_norm":
            # The fast variance, E[x^2] - E[x]^2, cancels where the mean is large.
            return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)(x)
        case "rms_norm":
            return nn.RMSNorm(epsilon=1e-6, dtype=dtype, name=name)(x)
        case "none":
            return x
        case _:
            assert_never(kind)
