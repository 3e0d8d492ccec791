"""How well a classifier tells the clips of a split apart."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int16, Int32, Int64

from poolformer_jax.classifier.log_mel import MelPadding, log_mel
from poolformer_jax.classifier.network import ClassifierConfig, Stats, classify

_CLIPS_AT_ONCE = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
    """Result on a set of clips.

    Attributes:
      loss: Mean cross entropy in nats.
      confusion: [k, k], clips by their class (rows) and what they were taken for (columns).
    """

    loss: float
    confusion: Int64[np.ndarray, "k k"]

    @property
    def accuracy(self) -> float:
        """Share of the clips that were taken for what they are."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    def summary(self) -> dict[str, float | int]:
        """Accuracy, loss and number of clips."""
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "num_clips": int(self.confusion.sum()),
        }


def log_mels(
    audio: Int16[np.ndarray, "b t"], *, padding: MelPadding
) -> Float32[np.ndarray, "b 32 32"]:
    """Computes the spectrograms of many clips, 4 kB each; see `log_mel`."""
    compiled = jax.jit(functools.partial(log_mel, padding=padding))
    parts = [
        np.asarray(compiled(_filled(audio[first : first + _CLIPS_AT_ONCE])))
        for first in range(0, len(audio), _CLIPS_AT_ONCE)
    ]
    return np.concatenate(parts)[: len(audio)]


def make_classification(
    config: ClassifierConfig,
) -> Callable[
    [Any, Stats, Float32[np.ndarray, "b 32 32"], Int32[np.ndarray, " b"]], Classification
]:
    """Builds the function (params, stats, mels, labels) -> Classification; it is compiled once."""

    @jax.jit
    def compiled(params: Any, stats: Stats, mels: jax.Array) -> jax.Array:
        logits, _, _ = classify(config, params, stats, mels)
        return logits

    def evaluate(
        params: Any,
        stats: Stats,
        mels: Float32[np.ndarray, "b 32 32"],
        labels: Int32[np.ndarray, " b"],
    ) -> Classification:
        logits = np.concatenate(
            [
                np.asarray(compiled(params, stats, _filled(mels[first : first + _CLIPS_AT_ONCE])))
                for first in range(0, len(mels), _CLIPS_AT_ONCE)
            ]
        )[: len(mels)].astype(np.float64)
        log_sum = np.logaddexp.reduce(logits, axis=1)
        losses = log_sum - logits[np.arange(len(labels)), labels]
        confusion = np.zeros((config.num_classes, config.num_classes), np.int64)
        np.add.at(confusion, (labels, logits.argmax(1)), 1)
        return Classification(loss=float(losses.mean()), confusion=confusion)

    return evaluate


def _filled(rows: np.ndarray) -> np.ndarray:
    """The rows, and zeros up to the size that the program is compiled for."""
    missing = _CLIPS_AT_ONCE - len(rows)
    return np.pad(rows, ((0, missing), *[(0, 0)] * (rows.ndim - 1)))
