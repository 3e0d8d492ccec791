"""What trainer, sampler, likelihood and binaries know of a model, and all they know.

A sequence model gives codes their probabilities, one after the other. It has state, a tree of
arrays that begins with `init_state`; labels, guidance and the position in the sequence are inside.
To add a model: a package beside `poolformer/`, a configuration class, and its entry in `registry`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key

from poolformer_jax.ops.draw import Draw
from poolformer_jax.sharding import Rules

Params = Any
"""A nested dict of float32 arrays."""

State = Any
"""A tree of arrays; what a model remembers of the codes so far."""

Noise = Any
"""A tree of arrays with a row for each clip: the randomness of a draw."""


@runtime_checkable
class SequenceModel(Hashable, Protocol):
    """p(x_t | x_0 ... x_{t-1}) of sequences of codes.

    Models of equal configurations are equal, with equal hashes: they share their compiled programs.
    """

    @property
    def num_codes(self) -> int:
        """Codes are 0 ... num_codes - 1."""
        ...

    @property
    def num_classes(self) -> int:
        """Labels are 0 ... num_classes - 1, and num_classes for "no label"; 0 is no labels."""
        ...

    @property
    def chunk_multiple(self) -> int:
        """Chunks have multiples of so many codes, and begin anywhere."""
        ...

    @property
    def parameter_rules(self) -> Rules:
        """How the parameters are split over a mesh."""
        ...

    def init_params(self, key: Array) -> Params:
        """Draws the parameters."""
        ...

    def init_state(
        self,
        batch: int,
        labels: Int[Array | np.ndarray, " b"] | None = None,
        *,
        guided: bool = False,
    ) -> State:
        """The state before the first code.

        Args:
          batch: Clips.
          labels: Class of each clip; None is "no label" for all.
          guided: Whether to remember each clip without its label too, as `draw` needs it for a
            guidance other than 1.

        Raises:
          ValueError: If there are labels and the model has no classes.
        """
        ...

    def log_probs(
        self,
        params: Params,
        codes: Int[Array, "b t"],
        state: State,
        *,
        inputs: Int[Array, "b t"] | None = None,
        dropout_key: Array | None = None,
    ) -> tuple[Float[Array, "b t"], State]:
        """Reads a chunk in parallel.

        Args:
          params: Parameters.
          codes: t is a multiple of `chunk_multiple`, in each of the parts that an ambient mesh
            splits time into; any number of codes may be before.
          state: State before them.
          inputs: What later steps see in place of the codes; None is the codes themselves.
          dropout_key: In training, if the model has dropout.

        Returns:
          (log-probability of each code given those before it, in nats and float32; state after).

        Raises:
          ValueError: If t is not such a multiple.
        """
        ...

    def draw_in_parallel(
        self, params: Params, codes: Int[Array, "b t"], state: State, key: Array
    ) -> Int[Array, "b t"]:
        """Draws for each of the codes another one, given the true ones before it.

        As `log_probs` it takes multiples of `chunk_multiple`; the state is not a guided one.

        Raises:
          ValueError: If t is not such a multiple.
        """
        ...

    def step_log_probs(
        self, params: Params, codes: Int[Array, " b"], state: State
    ) -> tuple[Float[Array, " b"], State]:
        """Reads one code of each clip; the same as a chunk of one, at any position."""
        ...

    def noise(self, keys: Key[Array, " b"]) -> Noise:
        """Makes the randomness of one draw of each clip.

        It depends on the keys alone, so that it can be made for many draws at once, under
        `jax.vmap`.
        """
        ...

    def draw(
        self, params: Params, noise: Noise, state: State, *, draw: Draw
    ) -> tuple[Int[Array, " b"], Float[Array, " b"], State]:
        """Draws the next code of each clip, by what `noise` made.

        Returns:
          (codes; their log-probabilities without guidance, temperature or restriction, NaN where
          what they were drawn from is not finite; state after them).
        """
        ...


def count_params(model: SequenceModel) -> int:
    """Number of parameters, without allocating them."""
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def batch_axes(model: SequenceModel) -> list[int]:
    """For each leaf of a state, which axis is the batch; -1 where none is."""

    def shapes(batch: int) -> list[tuple[int, ...]]:
        leaves = jax.eval_shape(lambda: jax.tree.leaves(model.init_state(batch)))
        return [leaf.shape for leaf in leaves]

    return [
        next((axis for axis, (n, m) in enumerate(zip(*pair, strict=True)) if n != m), -1)
        for pair in zip(shapes(1), shapes(2), strict=True)
    ]
