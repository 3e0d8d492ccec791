"""The loss that a classifier is trained on, and one step of training it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array
from jax.sharding import Mesh

from poolformer_jax import sharding
from poolformer_jax.classifier.augmentation import augmented_log_mel, draw_changes
from poolformer_jax.classifier.config import AugmentConfig, ClassifierConfig, ClassifierTrainConfig
from poolformer_jax.classifier.log_mel import log_mel
from poolformer_jax.classifier.network import Stats, classify, init_classifier

ClassifierBatch = Mapping[str, Array]
"""`audio` int16 [b, t], `labels` int32 [b], and `noise` int16 [b, t] if the clips are changed."""

ClassifierLoss = Callable[[Any, Stats, ClassifierBatch, Array], tuple[Array, tuple[Stats, Array]]]


def make_loss(
    model_config: ClassifierConfig, augment_config: AugmentConfig, *, mesh: Mesh | None = None
) -> ClassifierLoss:
    """Builds the pure function (params, stats, batch, key) -> (loss, (new stats, correct clips)).

    The loss is the mean cross entropy in nats, as the network saw the batch: normalised by the
    statistics of all of it, also over several devices. The changes of the clips follow from the
    key; a batch without noise is taken as it is.

    Args:
      model_config: Architecture and front end.
      augment_config: Ranges of the changes.
      mesh: Devices that the rows of a batch are split over, if there are several.
    """
    padding = model_config.mel_padding
    plain = sharding.map_rows(mesh, functools.partial(log_mel, padding=padding))
    changed = sharding.map_rows(mesh, functools.partial(augmented_log_mel, padding=padding))

    def spectrograms(batch: ClassifierBatch, key: Array) -> Array:
        if "noise" not in batch:
            return plain(batch["audio"])
        return changed(batch["audio"], *draw_changes(augment_config, key, batch["noise"]))

    def loss(
        params: Any, stats: Stats, batch: ClassifierBatch, key: Array
    ) -> tuple[Array, tuple[Stats, Array]]:
        mels, labels = spectrograms(batch, key), batch["labels"]
        logits, _, stats = classify(model_config, params, stats, mels, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (stats, jnp.sum(logits.argmax(-1) == labels))

    return loss


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
    mesh: Mesh | None = None,
) -> ClassifierStep:
    """Builds the pure function (state, batch) -> (state, {`loss` in nats, `accuracy`}).

    Both are means over the batch, see `make_loss`. The update is PyTorch's SGD: the decay is part
    of the gradient, and the rate multiplies the sum of gradients, v = momentum v + g,
    p = p - rate v. The changes of the clips follow from seed and step.
    """
    optimizer = _make_optimizer(train_config)
    root_key = jax.random.fold_in(jax.random.key(train_config.seed), 1)
    loss_and_gradient = jax.value_and_grad(
        make_loss(model_config, augment_config, mesh=mesh), has_aux=True
    )

    def classifier_step(
        state: ClassifierState, batch: ClassifierBatch
    ) -> tuple[ClassifierState, dict[str, Array]]:
        key = jax.random.fold_in(root_key, state.step)
        (loss, (stats, correct)), gradient = loss_and_gradient(
            state.params, state.stats, batch, key
        )
        update, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - state.learning_rate * u, state.params, update)
        state = state.replace(  # type: ignore[attr-defined]
            step=state.step + 1, params=params, stats=stats, opt_state=opt_state
        )
        return state, {"loss": loss, "accuracy": correct / len(batch["labels"])}

    return classifier_step


def _make_optimizer(config: ClassifierTrainConfig) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.trace(decay=config.momentum)
    )
