"""Training a classifier: cross entropy of the clips' classes, changed clips, running statistics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from poolformer_jax import sharding
from poolformer_jax.classifier.augmentation import augmented_log_mel, draw_changes
from poolformer_jax.classifier.clips import LabelledClips
from poolformer_jax.classifier.config import AugmentConfig, ClassifierConfig
from poolformer_jax.classifier.inference import classify_labelled
from poolformer_jax.classifier.log_mel import log_mel
from poolformer_jax.classifier.network import Stats, classify, init_classifier
from poolformer_jax.training.objective import Batch


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierObjective:
    """The mean cross entropy in nats, as the network sees the batch.

    A batch has `audio` int16 [b, t], `labels` int32 [b], and `noise` int16 [b, t] if the clips are
    changed. In a program over several devices the statistics are those of the whole batch, or of
    the whole part where it is accumulated in parts.

    Attributes:
      config: Architecture and front end.
      augment: Ranges of the changes.
      validation: Clips to evaluate on.
      eval_batch_size: How many of them are classified side by side.
      mesh: Devices that the rows of a batch are split over, if there are several.
    """

    config: ClassifierConfig
    augment: AugmentConfig
    validation: LabelledClips
    eval_batch_size: int
    mesh: Mesh | None = None

    loss_name = "loss"
    plain_sums = False

    def init(self, key: Array) -> tuple[Any, Stats]:
        """Draws the parameters."""
        return init_classifier(self.config, key)

    def count(self, batch: Batch) -> Array:
        """Clips."""
        return jnp.float32(len(batch["labels"]))

    def loss(
        self, params: Any, statistics: Stats, batch: Batch, key: Array, count: Array
    ) -> tuple[Array, tuple[Stats, dict[str, Array]]]:
        """Computes the loss; the changes of the clips follow from the key."""
        mels, labels = self._spectrograms(batch, key), batch["labels"]
        logits, _, statistics = classify(self.config, params, statistics, mels, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        correct = jnp.sum(logits.argmax(-1) == labels, dtype=jnp.float32)
        return jnp.sum(losses) / count, (statistics, {"accuracy": correct / count})

    def metrics(self, loss: Array, sums: Mapping[str, Array]) -> dict[str, Array]:
        """Loss and accuracy."""
        return {"loss": loss, **sums}

    def evaluate(
        self, params: Any, statistics: Stats, should_stop: Callable[[], bool]
    ) -> Mapping[str, float]:
        """Classifies the validation clips; that is too quick to be stopped."""
        found = classify_labelled(
            self.config,
            params,
            statistics,
            self.validation,
            batch_size=self.eval_batch_size,
            mesh=self.mesh,
        )
        return {name: value for name, value in found.summary().items() if value is not None}

    def rank(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Highest accuracy first; of equal ones the lowest loss."""
        return (-metrics["accuracy"], metrics["loss"])

    def describe(self, metrics: Mapping[str, float]) -> str:
        """Says loss and accuracy."""
        return f"loss {metrics['loss']:.4f}, {metrics['accuracy']:.2%}"

    def _spectrograms(self, batch: Batch, key: Array) -> Array:
        padding = self.config.mel_padding
        if "noise" not in batch:
            front_end = functools.partial(log_mel, padding=padding)
            return sharding.map_rows(self.mesh, front_end)(batch["audio"])
        front_end = functools.partial(augmented_log_mel, padding=padding)
        changes = draw_changes(self.augment, key, batch["noise"])
        return sharding.map_rows(self.mesh, front_end)(batch["audio"], *changes)
