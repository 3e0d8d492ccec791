"""Classifies many clips: features, probabilities, and how often the classes are right."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Float32, Int, Int16

from poolformer_jax import sharding
from poolformer_jax.classifier import batch_norm, log_mel
from poolformer_jax.classifier.clips import LabelledClips
from poolformer_jax.classifier.config import ClassifierConfig
from poolformer_jax.classifier.network import Stats, classify

# Raise it when code changes a classifier's outputs for a clip by more than rounding, and no setting
# in `front_end_hash` shows it: in the front end, in the network, or in how clips are read. Kept
# references are then computed again.
FEATURE_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classification:
    """Clips as a classifier sees them.

    Attributes:
      features: In front of the classifier's last layer.
      log_probs: Of the classes, in nats.
      labels: The clips' true classes, None if nobody knows; then so are accuracy, loss, confusion.
    """

    features: Float32[np.ndarray, "b d"]
    log_probs: Float32[np.ndarray, "b k"]
    labels: Int[np.ndarray, " b"] | None = None

    @property
    def predicted(self) -> Int[np.ndarray, " b"]:
        """The likeliest class of each clip."""
        return self.log_probs.argmax(axis=1)

    @property
    def entropies(self) -> Float32[np.ndarray, " b"]:
        """How unsure the classifier is of each clip, in nats."""
        return -np.sum(np.exp(self.log_probs) * self.log_probs, axis=1)

    @property
    def accuracy(self) -> float | None:
        """Share of the clips whose likeliest class is the true one."""
        return None if self.labels is None else float(np.mean(self.predicted == self.labels))

    @property
    def loss(self) -> float | None:
        """Mean cross entropy in nats."""
        if self.labels is None:
            return None
        of_labels = self.log_probs[np.arange(len(self.labels)), self.labels]
        return -float(np.mean(of_labels, dtype=np.float64))

    def summary(self) -> dict[str, float | int | None]:
        """Accuracy, loss and number of clips."""
        return {"accuracy": self.accuracy, "loss": self.loss, "num_clips": len(self.features)}

    def counts(self) -> Int[np.ndarray, " k"]:
        """Clips that are predicted to be of each class."""
        return np.bincount(self.predicted, minlength=self.log_probs.shape[1])

    @property
    def class_entropy(self) -> float:
        """Of the predicted classes, in bits: log2(k) if all are predicted equally often."""
        shares = self.counts()[self.counts() > 0] / len(self.predicted)
        return float(np.sum(shares * np.log2(1 / shares)))

    def confusion(self) -> Int[np.ndarray, "k k"] | None:
        """Clips by true (rows) and predicted class (columns)."""
        if self.labels is None:
            return None
        num_classes = self.log_probs.shape[1]
        pairs = self.labels * num_classes + self.predicted
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def classify_audio(
    config: ClassifierConfig,
    params: Any,
    stats: Stats,
    batches: Iterable[Float32[np.ndarray, "b t"] | Int16[np.ndarray, "b t"]],
    *,
    batch_size: int,
    mesh: Mesh | None = None,
    on_progress: Callable[[int], None] = lambda num_clips: None,
) -> Classification:
    """Classifies clips of unknown classes, batch by batch, with one program.

    A batch is filled up with silence, which is thrown away, to the batch size, and that to a
    multiple of the devices. A batch is read while the devices work on the one before.

    Args:
      config: Architecture and front end.
      params: Parameters; these and `stats` may be on the devices already.
      stats: Running statistics.
      batches: Audio of one length and type, see `log_mel`; at least one clip.
      batch_size: Clips that are classified side by side, at least as many as any batch has.
      mesh: Devices of this process that share each batch; None is the default device.
      on_progress: Called with the number of clips that were classified since the last call.
    """
    everywhere = None if mesh is None else sharding.replicated(mesh)
    by_rows = None if mesh is None else sharding.batch_sharding(mesh)
    num_rows = batch_size if mesh is None else -(-batch_size // mesh.size) * mesh.size
    params, stats = jax.device_put((params, stats), everywhere)
    waiting: list[tuple[int, Any]] = []  # Batches that the devices were given, at most two.
    results: list[tuple[np.ndarray, np.ndarray]] = []

    def fetch() -> None:
        num_clips, outputs = waiting.pop(0)
        features, log_probs = jax.device_get(outputs)
        results.append((features[:num_clips], log_probs[:num_clips]))
        on_progress(num_clips)

    for audio in batches:
        filled = np.pad(audio, ((0, num_rows - len(audio)), (0, 0)))
        rows = jax.device_put(filled, by_rows)
        waiting.append((len(audio), _classify(config, mesh, params, stats, rows)))
        if len(waiting) > 1:
            fetch()
    while waiting:
        fetch()
    features, log_probs = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return Classification(features=features, log_probs=log_probs)


def classify_labelled(
    config: ClassifierConfig,
    params: Any,
    stats: Stats,
    clips: LabelledClips,
    *,
    batch_size: int,
    mesh: Mesh | None = None,
) -> Classification:
    """Classifies clips of known classes, see `classify_audio`."""
    starts = range(0, len(clips), batch_size)
    batches = (clips.audio[start : start + batch_size] for start in starts)
    found = classify_audio(config, params, stats, batches, batch_size=batch_size, mesh=mesh)
    return dataclasses.replace(found, labels=clips.labels)


def front_end_hash(config: ClassifierConfig) -> str:
    """SHA-256 of what decides the features besides the classifier's architecture and arrays."""
    settings = {
        "clip_length": log_mel.CLIP_LENGTH,
        "batch_norm_epsilon": batch_norm.EPSILON,
        "dynamic_range": log_mel.DYNAMIC_RANGE,
        "feature_version": FEATURE_VERSION,
        "filters": hashlib.sha256(log_mel.mel_filters().astype("<f4").tobytes()).hexdigest(),
        "frame_length": log_mel.FRAME_LENGTH,
        "hop": log_mel.HOP,
        "mel_padding": config.mel_padding,
        "min_power": log_mel.MIN_POWER,
        "num_mels": log_mel.NUM_MELS,
        "sample_rate": log_mel.SAMPLE_RATE,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@functools.partial(jax.jit, static_argnames=("config", "mesh"))
def _classify(
    config: ClassifierConfig, mesh: Mesh | None, params: Any, stats: Stats, audio: Array
) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
    front_end = functools.partial(log_mel.log_mel, padding=config.mel_padding)
    mels = sharding.map_rows(mesh, front_end)(audio)
    logits, features, _ = classify(config, params, stats, mels)
    return features, jax.nn.log_softmax(logits)
