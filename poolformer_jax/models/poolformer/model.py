"""The autoregressive model: codes in, logits out, whole sequences, chunks or single samples."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int, Integer

from poolformer_jax.layers.embedding import InputEmbedding, OutputHead
from poolformer_jax.models.poolformer.backbone import BackboneState, init_block_state, make_block
from poolformer_jax.models.poolformer.config import PoolformerConfig


@struct.dataclass
class PoolformerState:
    """Everything the model remembers of the samples so far.

    Attributes:
      previous: [b] the last sample's code; `initial_code` at the start.
      time: Number of samples so far, one for the whole batch.
      backbone: State of the nested SkipBlocks.
      labels: [b] class of each clip; None in a model without classes.
    """

    previous: Array
    time: Array
    backbone: BackboneState
    labels: Array | None


class Poolformer(nn.Module):
    """p(x_t | x_0 ... x_{t-1}) of a sequence of codes.

    Attributes:
      config: Architecture.

    Source: Gallo Fernandez 2025, arXiv:2510.02206.
    """

    config: PoolformerConfig

    def setup(self):
        dtype = jnp.dtype(self.config.dtype)
        self.embedding = InputEmbedding(
            self.config.num_codes, self.config.width, self.config.embedding, dtype
        )
        self.backbone = make_block(self.config)
        self.head = OutputHead(self.config.num_codes, dtype)

    def __call__(
        self, codes: Int[Array, "b t"], state: PoolformerState | None = None
    ) -> tuple[Float[Array, "b t v"], PoolformerState]:
        """Computes the logits of every sample given all samples before it.

        Args:
          codes: The samples; t is a multiple of the total pooling factor.
          state: State after the samples before `codes`, with the labels; the start of a sequence,
            without labels, if None. The samples so far must be a multiple of the total pooling
            factor (`step` has no such limit).

        Returns:
          (logits in float32, state after the last sample).

        Raises:
          ValueError: If t, or the time of a concrete state, is not such a multiple.
        """
        self.config.check_length(codes.shape[1])
        if state is None:
            state = init_state(self.config, codes.shape[0])
        _check_aligned(state.time, self.config.total_pool_factor)
        codes = codes.astype(jnp.int32)
        previous = jnp.concatenate([state.previous[:, None], codes[:, :-1]], axis=1)
        x, backbone = self.backbone(
            self.embedding(previous), state.backbone, state.time, state.labels
        )
        state = dataclasses.replace(
            state, previous=codes[:, -1], time=state.time + codes.shape[1], backbone=backbone
        )
        return self.head(x), state

    def predict(self, state: PoolformerState) -> tuple[Float[Array, "b v"], PoolformerState]:
        """Computes the logits of the next sample.

        Returns:
          (logits in float32, the state for `observe` to complete with the next sample).
        """
        x = self.embedding(state.previous[:, None])[:, 0]
        x, backbone = self.backbone.step(x, state.backbone, state.time, state.labels)
        state = dataclasses.replace(state, time=state.time + 1, backbone=backbone)
        return self.head(x[:, None])[:, 0], state

    def step(
        self, codes: Int[Array, " b"], state: PoolformerState
    ) -> tuple[Float[Array, "b v"], PoolformerState]:
        """Feeds one sample; the same as a chunk of one, at any time.

        Returns:
          (logits that the samples before gave to this one, state after it).
        """
        logits, state = self.predict(state)
        return logits, observe(state, codes)


def init_state(
    config: PoolformerConfig, batch: int, labels: Integer[ArrayLike, " b"] | None = None
) -> PoolformerState:
    """The state before the first sample.

    Args:
      config: Architecture.
      batch: Clips.
      labels: Class of each clip, 0 ... num_classes - 1, or num_classes for "no label", which None
        means for all.

    Raises:
      ValueError: If there are labels and the model has no classes.
    """
    if config.num_classes:
        labels = jnp.full((batch,), config.num_classes) if labels is None else jnp.asarray(labels)
        labels = labels.astype(jnp.int32)
    elif labels is not None:
        raise ValueError("labels were given, but the model has no classes: num_classes is 0")
    return PoolformerState(
        previous=jnp.full((batch,), config.initial_code, jnp.int32),
        time=jnp.zeros((), jnp.int32),
        backbone=init_block_state(config, batch),
        labels=labels,
    )


def batch_axes(config: PoolformerConfig) -> list[int]:
    """For each leaf of a state, which axis is the batch; -1 where none is."""

    def shapes(batch: int) -> list[tuple[int, ...]]:
        leaves = jax.eval_shape(lambda: jax.tree.leaves(init_state(config, batch)))
        return [leaf.shape for leaf in leaves]

    return [
        next((axis for axis, (n, m) in enumerate(zip(*pair, strict=True)) if n != m), -1)
        for pair in zip(shapes(1), shapes(2), strict=True)
    ]


def observe(state: PoolformerState, codes: Int[Array, " b"]) -> PoolformerState:
    """Completes the state that `predict` returned with the sample that was drawn or given."""
    return dataclasses.replace(state, previous=codes.astype(jnp.int32))


def init_params(config: PoolformerConfig, key: Array) -> dict:
    """Draws the parameters: a nested dict of float32 arrays, layers of a stage stacked."""
    codes = jnp.zeros((1, config.total_pool_factor), jnp.int32)
    # Compiled, because one by one the draws of a hundred parameters take minutes.
    return jax.jit(Poolformer(config).init)(key, codes)["params"]


def count_params(config: PoolformerConfig) -> int:
    """Number of parameters, without allocating them."""
    shapes = jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _check_aligned(time: Array, total: int) -> None:
    if not isinstance(time, jax.core.Tracer) and int(time) % total:
        raise ValueError(
            f"a chunk cannot start at sample {int(time)}: chunks start at multiples of the total "
            f"pooling factor {total}; feed the samples up to the next multiple by `step`"
        )
