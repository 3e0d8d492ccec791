"""A network from codes to logits as a sequence model: everything but the network.

`Network` is the Linen module, of which a model fills in embedding, backbone and head;
`Autoregressive` is what the rest of the program knows (`SequenceModel`).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax import Array
from jaxtyping import Float, Int, Key

from poolformer_jax import sharding
from poolformer_jax.layers.config import on_platform
from poolformer_jax.layers.initialization import Parameter, draw_parameters, list_parameters
from poolformer_jax.models.config import SequenceModelConfig, check_length
from poolformer_jax.ops.categorical import draw_codes, guide_logits, log_probs_of
from poolformer_jax.ops.draw import Draw
from poolformer_jax.ops.scan_sharded import steps_before


@struct.dataclass
class SequenceState:
    """Everything the model remembers of the samples so far.

    Attributes:
      previous: [b] the last sample's code; `initial_code` at the start.
      position: Number of samples so far, one for the whole batch; from the second window of all
        pools on modulo the multiple of a chunk, so that it never overflows.
      backbone: State of the backbone.
      labels: [b] class of each clip; None in a model without classes. A guided clip has two rows,
        with its label and without.
    """

    previous: Array
    position: Array
    backbone: Any
    labels: Array | None


class Network(nn.Module):
    """Logits of samples given all samples before them.

    `setup` of a subclass makes `embedding`, from codes to vectors; `head`, from vectors to logits;
    and `backbone`, called as `backbone(x, state, position, labels)`, and for one sample as
    `backbone.step`, for the output and the state after.

    Attributes:
      config: Architecture.
    """

    config: SequenceModelConfig

    @nn.nowrap
    def init_backbone_state(self, rows: int) -> Any:
        """The backbone's state before the first sample."""
        raise NotImplementedError

    def __call__(
        self, codes: Int[Array, "b t"], state: SequenceState
    ) -> tuple[Float[Array, "b t v"], SequenceState]:
        """Computes the logits of every sample of a chunk; see `Autoregressive.log_probs`."""
        codes = codes.astype(jnp.int32)
        before, last = steps_before(state.previous[:, None], codes)
        previous = jnp.concatenate([before, codes[:, :-1]], axis=1)
        position, steps = state.position, codes.shape[1]
        if (part := sharding.time_part()) is not None:
            position, steps = position + part * steps, steps * sharding.num_time_parts()
        x, backbone = self.backbone(
            self.embedding(previous), state.backbone, position, state.labels
        )
        state = self._advance(state, backbone, steps)
        return self.head(x), dataclasses.replace(state, previous=last[:, 0])

    def predict(self, state: SequenceState) -> tuple[Float[Array, "b v"], SequenceState]:
        """Computes the logits of the next sample.

        Returns:
          (logits in float32, the state after the sample, but for `previous`, which is the sample).
        """
        x = self.embedding(state.previous[:, None])[:, 0]
        x, backbone = self.backbone.step(x, state.backbone, state.position, state.labels)
        return self.head(x[:, None])[:, 0], self._advance(state, backbone, 1)

    def _advance(self, state: SequenceState, backbone: Any, steps: int) -> SequenceState:
        total = self.config.chunk_multiple
        position = state.position + steps
        position = jnp.where(position < 2 * total, position, total + position % total)
        return dataclasses.replace(state, position=position, backbone=backbone)


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """p(x_t | x_0 ... x_{t-1}) of a sequence of codes; a `SequenceModel`, which documents it.

    Attributes:
      config: Architecture.
      network_type: The network, given by a subclass.
      parameter_rules: How its parameters are split over a mesh, given by a subclass.
    """

    config: SequenceModelConfig
    network_type: ClassVar[type[Network]]
    parameter_rules: ClassVar[sharding.Rules]

    @property
    def num_codes(self) -> int:
        """Size of the vocabulary."""
        return self.config.num_codes

    @property
    def num_classes(self) -> int:
        """Classes of the labels; 0 is none."""
        return self.config.num_classes

    @property
    def chunk_multiple(self) -> int:
        """Chunks have multiples of so many samples."""
        return self.config.chunk_multiple

    def init_params(self, key: Array) -> dict:
        """Draws the parameters: a nested dict of float32 arrays, layers of a stage stacked."""
        return draw_parameters(_parameters(self), key)

    def init_state(
        self,
        batch: int,
        labels: Int[Array | np.ndarray, " b"] | None = None,
        *,
        guided: bool = False,
    ) -> SequenceState:
        """The state before the first sample."""
        none = self.num_classes
        if none:
            labels = jnp.full((batch,), none) if labels is None else jnp.asarray(labels)
            labels = labels.astype(jnp.int32)
            if guided:
                labels = jnp.stack([labels, jnp.full_like(labels, none)], axis=1).ravel()
        elif labels is not None or guided:
            what = "guidance was asked for" if labels is None else "labels were given"
            raise ValueError(f"{what}, but the model has no classes: num_classes is 0")
        rows = 2 * batch if guided else batch
        return SequenceState(
            previous=jnp.full((rows,), self.config.initial_code, jnp.int32),
            position=jnp.zeros((), jnp.int32),
            backbone=self.network_type(self.config).init_backbone_state(rows),
            labels=labels,
        )

    def logits(
        self,
        params: Any,
        codes: Int[Array, "b t"],
        state: SequenceState | None = None,
        *,
        dropout_key: Array | None = None,
    ) -> tuple[Float[Array, "b t v"], SequenceState]:
        """Computes the logits of a chunk, from the start of a sequence if there is no state.

        See `log_probs`, whose codes have as many rows as the state has clips; here as many as the
        state has rows.
        """
        check_length(self, codes.shape[1], parts=sharding.num_time_parts())
        state = self.init_state(codes.shape[0]) if state is None else state

        def run(codes: Any, shared: Any) -> Any:
            params, state, key = shared
            if key is not None and (part := sharding.time_part()) is not None:
                key = jax.random.fold_in(key, part)
            rngs = None if key is None else {"dropout": key}
            return self.network_type(self.config).apply({"params": params}, codes, state, rngs=rngs)

        return sharding.map_time(run, codes, (sharding.gather_params(params), state, dropout_key))

    def log_probs(
        self,
        params: Any,
        codes: Int[Array, "b t"],
        state: SequenceState,
        *,
        inputs: Int[Array, "b t"] | None = None,
        dropout_key: Array | None = None,
    ) -> tuple[Float[Array, "b t"], SequenceState]:
        """Reads a chunk in parallel."""
        rows = len(state.previous) // len(codes)
        seen = jnp.repeat(codes if inputs is None else inputs, rows, axis=0)
        logits, state = self.logits(params, seen, state, dropout_key=dropout_key)
        return log_probs_of(logits[::rows], codes), state

    def draw_in_parallel(
        self, params: Any, codes: Int[Array, "b t"], state: SequenceState, key: Array
    ) -> Int[Array, "b t"]:
        """Draws for each of the codes another one."""
        logits, _ = self.logits(params, codes, state)
        return jax.random.categorical(key, logits.astype(jnp.float32)).astype(codes.dtype)

    def step_log_probs(
        self, params: Any, codes: Int[Array, " b"], state: SequenceState
    ) -> tuple[Float[Array, " b"], SequenceState]:
        """Reads one sample of each clip, at any position."""
        rows = len(state.previous) // len(codes)
        logits, state = self._predict(params, state)
        return log_probs_of(logits[::rows], codes), _observe(state, codes, rows)

    def noise(self, keys: Key[Array, " b"]) -> Float[Array, "b v"]:
        """Standard Gumbel noise for every code of each clip."""
        return jax.vmap(lambda key: jax.random.gumbel(key, (self.num_codes,), jnp.float32))(keys)

    def draw(
        self, params: Any, noise: Float[Array, "b v"], state: SequenceState, *, draw: Draw
    ) -> tuple[Int[Array, " b"], Float[Array, " b"], SequenceState]:
        """Draws the next sample of each clip."""
        rows = len(state.previous) // len(noise)
        logits, state = self._predict(params, state)
        drawn_from = logits[::rows]
        if draw.guidance != 1.0:
            if rows != 2:
                raise ValueError(
                    f"guidance {draw.guidance} needs a state that was begun with guided=True"
                )
            drawn_from = guide_logits(drawn_from, logits[1::2], draw=draw)
        codes = draw_codes(drawn_from, noise, draw=draw)
        # What is drawn from must be finite too, with guidance.
        finite = jnp.all(jnp.isfinite(drawn_from), axis=-1)
        log_probs = jnp.where(finite, log_probs_of(logits[::rows], codes), jnp.nan)
        return codes, log_probs, _observe(state, codes, rows)

    def _predict(
        self, params: Any, state: SequenceState
    ) -> tuple[Float[Array, "r v"], SequenceState]:
        network = self.network_type(self.config)
        outputs: Any = network.apply({"params": params}, state, method="predict")
        return outputs


@functools.cache
def _parameters(model: Autoregressive) -> list[Parameter]:
    """How the parameters are drawn; found out by a trace for a CPU, which is the shortest."""
    codes = jnp.zeros((1, model.chunk_multiple), jnp.int32)
    network = model.network_type(on_platform(model.config, "cpu"))
    return list_parameters(network, codes, model.init_state(1))


def _observe(state: SequenceState, codes: Int[Array, " b"], rows: int) -> SequenceState:
    return dataclasses.replace(state, previous=jnp.repeat(codes.astype(jnp.int32), rows))
