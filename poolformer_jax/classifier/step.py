"""One step of training a classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from poolformer_jax.classifier.augment import Noise, augmented_log_mel
from poolformer_jax.classifier.augmentation import draw_augmentation, draw_noise_share
from poolformer_jax.classifier.config import AugmentConfig, ClassifierTrainConfig
from poolformer_jax.classifier.network import ClassifierConfig, classify, init_classifier

ClassifierBatch = Mapping[str, Array]
"""`labels` int32 [b] and either `audio` and `noise`, int16 [b, t], or `mels`, float32 [b, 32, 32],
the spectrograms of clips that are not to be changed."""


@struct.dataclass
class ClassifierState:
    """State of a run; the leaves are arrays, or descriptions of arrays (shape, type, sharding).

    Attributes:
      step: Steps so far.
      learning_rate: Of the next step.
      params: Parameters, float32.
      stats: Running statistics.
      opt_state: Of the optimiser.
    """

    step: Any
    learning_rate: Any
    params: Any
    stats: Any
    opt_state: Any


ClassifierStep = Callable[
    [ClassifierState, ClassifierBatch], tuple[ClassifierState, dict[str, Array]]
]


def init_classifier_state(
    model_config: ClassifierConfig, train_config: ClassifierTrainConfig
) -> ClassifierState:
    """Draws the parameters from the seed."""
    params, stats = init_classifier(model_config, jax.random.key(train_config.seed))
    return ClassifierState(
        step=jnp.zeros((), jnp.int32),
        learning_rate=jnp.float32(train_config.learning_rate),
        params=params,
        stats=stats,
        opt_state=_make_optimizer(train_config).init(params),
    )


def make_classifier_step(
    model_config: ClassifierConfig,
    train_config: ClassifierTrainConfig,
    augment_config: AugmentConfig,
    *,
    map_rows: Callable[[Callable], Callable] = lambda function: function,
) -> ClassifierStep:
    """Builds the pure function (state, batch) -> (state, {`loss` in nats, `accuracy`}).

    Both are means over the batch, as the network saw it. The update is PyTorch's SGD: the decay is
    part of the gradient, and the rate multiplies the sum of gradients, v = momentum v + g,
    p = p - rate v. The changes of the clips follow from seed and step. In a program over several
    devices the statistics are those of the whole batch.

    Args:
      model_config: Architecture and front end.
      train_config: Recipe.
      augment_config: Ranges of the changes.
      map_rows: Wraps a function of rows that do not meet, see `sharding.map_rows`.
    """
    optimizer = _make_optimizer(train_config)
    front_end = map_rows(functools.partial(augmented_log_mel, padding=model_config.mel_padding))
    root_key = jax.random.fold_in(jax.random.key(train_config.seed), 1)

    def spectrograms(batch: ClassifierBatch, step: Array) -> Array:
        if "mels" in batch:
            return batch["mels"]
        keys = jax.random.split(jax.random.fold_in(root_key, step), 3)
        size = batch["labels"].shape[0]
        noise = Noise(
            clips=batch["noise"],
            augmentation=draw_augmentation(augment_config, keys[1], size),
            share=draw_noise_share(augment_config, keys[2], size),
        )
        return front_end(batch["audio"], draw_augmentation(augment_config, keys[0], size), noise)

    def classifier_step(
        state: ClassifierState, batch: ClassifierBatch
    ) -> tuple[ClassifierState, dict[str, Array]]:
        mels, labels = spectrograms(batch, state.step), batch["labels"]

        def loss_fn(params: Any) -> tuple[Array, tuple[Array, Any]]:
            logits, _, stats = classify(model_config, params, state.stats, mels, train=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), (jnp.mean(logits.argmax(-1) == labels), stats)

        (loss, (accuracy, stats)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        update, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - state.learning_rate * u, state.params, update)
        state = ClassifierState(
            step=state.step + 1,
            learning_rate=state.learning_rate,
            params=params,
            stats=stats,
            opt_state=opt_state,
        )
        return state, {"loss": loss, "accuracy": accuracy}

    return classifier_step


def _make_optimizer(config: ClassifierTrainConfig) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.trace(decay=config.momentum)
    )
