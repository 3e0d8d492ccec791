"""Training a sequence model: bits per sample of the next code."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from poolformer_jax.models.sequence_model import Params, SequenceModel, State
from poolformer_jax.ops.categorical import excess_bits, mask_padding
from poolformer_jax.training.config import TrainConfig
from poolformer_jax.training.objective import Batch

Evaluate = Callable[[Params, Callable[[], bool]], Mapping[str, float] | None]


@dataclasses.dataclass(frozen=True)
class SequenceObjective:
    """The mean of -log2 p(code) over all samples of a batch that count, those at onsets weighted.

    A batch has `tokens` [b, t] and `lengths` [b], for a model with classes `labels` [b] too. Labels
    are withheld at random as in Ho & Salimans 2022, arXiv:2207.12598, so that one model learns both
    distributions that guidance needs.

    Attributes:
      model: What is trained.
      evaluate_params: From (parameters, "shall I stop?") to `bits_per_sample` and what else is
        worth writing down; None if it was told to stop.
      label_dropout: Rate at which labels are withheld.
      onset_weight: Additional weight of each onset, a; sample t has 1 + a exp(-(t - o) / s) from
        the onset o on.
      onset_samples: s.
      onsets: All o.
      sampled_inputs: Up to which share samples are read as the model would draw them; see
        `read_own_draws`.
      initial_params: What training starts from; None draws the parameters.
    """

    model: SequenceModel
    evaluate_params: Evaluate
    label_dropout: float = 0.0
    onset_weight: float = 0.0
    onset_samples: int = 10
    onsets: tuple[int, ...] = (0,)
    sampled_inputs: float = 0.0
    initial_params: Params | None = None

    loss_name = "bits_per_sample"
    plain_sums = True

    def init(self, key: Array) -> tuple[Params, None]:
        """Draws the parameters, unless there are some to start from."""
        if self.initial_params is not None:
            return self.initial_params, None
        return self.model.init_params(key), None

    def count(self, batch: Batch) -> Array:
        """Samples that count."""
        return jnp.maximum(jnp.sum(batch["lengths"]), 1).astype(jnp.float32)

    def loss(
        self, params: Params, statistics: None, batch: Batch, key: Array, count: Array
    ) -> tuple[Array, tuple[None, dict[str, Array]]]:
        """Computes the bits beyond a uniform model's, which `metrics` adds."""
        model, labels = self.model, None
        if model.num_classes:
            withheld = jax.random.bernoulli(
                jax.random.fold_in(key, 1), self.label_dropout, batch["labels"].shape
            )
            labels = jnp.where(withheld, model.num_classes, batch["labels"])
        codes = batch["tokens"]
        state = model.init_state(codes.shape[0], labels)
        inputs = None
        if self.sampled_inputs:
            draws = jax.random.fold_in(key, 2)
            inputs = read_own_draws(
                model, params, codes, state, most=self.sampled_inputs, key=draws
            )
        log_probs, _ = model.log_probs(params, codes, state, inputs=inputs, dropout_key=key)
        excess = mask_padding(excess_bits(log_probs, model.num_codes), lengths=batch["lengths"])
        mean = jnp.sum(jnp.sum(excess, axis=1)) / count
        if not self.onset_weight:
            return mean, (None, {})
        since = jnp.arange(codes.shape[1])[None] - jnp.array(self.onsets)[:, None]
        falling = jnp.where(since < 0, 0.0, jnp.exp(-since / self.onset_samples))
        onset = self.onset_weight * jnp.sum(falling, axis=0)
        return mean + jnp.sum(jnp.sum(onset[None] * excess, axis=1)) / count, (None, {"mean": mean})

    def metrics(self, loss: Array, sums: Mapping[str, Array]) -> dict[str, Array]:
        """Bits per sample, without weights."""
        mean = sums["mean"] if self.onset_weight else loss
        return {"bits_per_sample": mean + math.log2(self.model.num_codes)}

    def evaluate(
        self, params: Params, statistics: Any, should_stop: Callable[[], bool]
    ) -> Mapping[str, float] | None:
        """Evaluates the likelihood of the validation split."""
        return self.evaluate_params(params, should_stop)

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Fewest bits first."""
        return rank_likelihood(metrics)

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Says the bits."""
        return f"{metrics['bits_per_sample']:.4f} bits per sample"


def objective_of(
    train: TrainConfig,
    model: SequenceModel,
    evaluate_params: Evaluate,
    initial_params: Params | None = None,
) -> SequenceObjective:
    """The objective of a recipe."""
    return SequenceObjective(
        model,
        evaluate_params,
        label_dropout=train.label_dropout,
        onset_weight=train.onset_weight,
        onset_samples=train.onset_samples,
        onsets=train.onsets,
        sampled_inputs=train.sampled_inputs,
        initial_params=initial_params,
    )


def read_own_draws(
    model: SequenceModel,
    params: Params,
    codes: Int[Array, "b t"],
    state: State,
    *,
    most: float,
    key: Array,
) -> Int[Array, "b t"]:
    """Replaces codes by what the model would draw after the true ones before them.

    A model that only ever reads recordings does not learn to go on from its own small mistakes,
    which add up when it draws.

    Args:
      model: The model.
      params: Its parameters; no gradient goes through the draws.
      codes: The true codes.
      state: State before them.
      most: Of each clip a share of the codes is replaced that is drawn from 0 to this.
      key: Of the draws.

    Source: scheduled sampling, Bengio et al. 2015, arXiv:1506.03099, in two parallel passes as in
    Mihaylova & Martins 2019, arXiv:1906.07651; here the shares do not depend on the step.
    """
    for_draws, for_shares, for_places = jax.random.split(key, 3)
    drawn = model.draw_in_parallel(jax.lax.stop_gradient(params), codes, state, for_draws)
    shares = most * jax.random.uniform(for_shares, (len(codes), 1))
    return jnp.where(jax.random.uniform(for_places, codes.shape) < shares, drawn, codes)


def rank_likelihood(metrics: Mapping[str, float]) -> tuple[float, ...]:
    """Orders evaluations by their bits per sample."""
    return (metrics["bits_per_sample"],)
