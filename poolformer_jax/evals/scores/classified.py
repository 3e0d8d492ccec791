"""What a classifier makes of many clips, batch by batch."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Int

from poolformer_jax.classifier import batch_norm, log_mel
from poolformer_jax.classifier.files import SavedClassifier
from poolformer_jax.classifier.network import ClassifierConfig, Stats, classify
from poolformer_jax.evals.samples.clip_sets import ClipSet
from poolformer_jax.evals.samples.wav_folder import FolderReport

# Raise it when code changes what a classifier makes of a clip by more than rounding, and no setting
# in `front_end_hash` shows it: in `ops/log_mel.py`, in `models/classifier.py` and its layers, or in
# how clips are read here. Kept references are then computed again.
FEATURE_VERSION = 1

Place = Callable[[Float32[np.ndarray, "b t"]], Array]
"""Puts a batch on the devices."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifiedClips:
    """Clips as the classifier sees them.

    Attributes:
      names: Of the clips.
      features: In front of the classifier's last layer.
      log_probs: Of the classes.
      report: What was odd about the clips.
      labels: Their true classes, None if nobody knows.
    """

    names: tuple[str, ...]
    features: Float32[np.ndarray, "b d"]
    log_probs: Float32[np.ndarray, "b k"]
    report: FolderReport
    labels: Int[np.ndarray, " b"] | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of the clips whose likeliest class is the true one."""
        return None if self.labels is None else float(np.mean(self.predicted == self.labels))

    @property
    def predicted(self) -> Int[np.ndarray, " b"]:
        """The likeliest class of each clip."""
        return self.log_probs.argmax(axis=1)

    @property
    def entropies(self) -> Float32[np.ndarray, " b"]:
        """How unsure the classifier is of each clip, in nats."""
        return -np.sum(np.exp(self.log_probs) * self.log_probs, axis=1)

    def take(self, clips: Int[np.ndarray, " n"], report: FolderReport) -> ClassifiedClips:
        """Some of the clips, and what was odd about these."""
        return ClassifiedClips(
            names=tuple(self.names[clip] for clip in clips),
            features=self.features[clips],
            log_probs=self.log_probs[clips],
            report=report,
            labels=None if self.labels is None else self.labels[clips],
        )

    def counts(self) -> Int[np.ndarray, " k"]:
        """Clips that are predicted to be of each class."""
        return np.bincount(self.predicted, minlength=self.log_probs.shape[1])

    def confusion(self) -> Int[np.ndarray, "k k"] | None:
        """Clips by true (rows) and predicted class (columns)."""
        if self.labels is None:
            return None
        num_classes = self.log_probs.shape[1]
        pairs = self.labels * num_classes + self.predicted
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def classify_clips(
    classifier: SavedClassifier,
    clips: ClipSet,
    *,
    batch_size: int,
    place: Place = jnp.asarray,
    on_progress: Callable[[int], None] = lambda clips: None,
) -> ClassifiedClips:
    """Classifies all clips of a set.

    All batches have the same size, the last one filled up with silence that is thrown away, so that
    one program takes them all. A batch is read while the devices work on the one before.

    Args:
      classifier: Its arrays may be on the devices already.
      clips: The set; at least one clip.
      batch_size: Clips that are classified side by side.
      place: For several devices.
      on_progress: Called with the number of clips that were classified since the last call.

    Raises:
      ValueError: If a clip can't be read.
    """
    names: list[str] = []
    labels: list[np.ndarray] = []
    report = FolderReport()
    results: list[tuple[np.ndarray, np.ndarray]] = []
    waiting: list[tuple[int, Any]] = []  # Batches that the devices were given, at most two.

    def fetch() -> None:
        count, outputs = waiting.pop(0)
        features, log_probs = jax.device_get(outputs)
        results.append((features[:count], log_probs[:count]))
        on_progress(count)

    for batch in clips.read(batch_size):
        names.extend(batch.names)
        report += batch.report
        if batch.labels is not None:
            labels.append(batch.labels)
        count = len(batch.audio)
        audio = place(np.pad(batch.audio, ((0, batch_size - count), (0, 0))))
        outputs = _classify(classifier.config, classifier.params, classifier.stats, audio)
        waiting.append((count, outputs))
        if len(waiting) > 1:
            fetch()
    while waiting:
        fetch()
    features, log_probs = (np.concatenate(parts) for parts in zip(*results, strict=True))
    return ClassifiedClips(
        names=tuple(names),
        features=features,
        log_probs=log_probs,
        report=report,
        labels=np.concatenate(labels) if labels else None,
    )


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


@functools.partial(jax.jit, static_argnames="config")
def _classify(
    config: ClassifierConfig, params: Any, stats: Stats, audio: Float[Array, "b t"]
) -> tuple[Float[Array, "b d"], Float[Array, "b k"]]:
    mels = log_mel.log_mel(audio, padding=config.mel_padding)
    logits, features, _ = classify(config, params, stats, mels)
    return features, jax.nn.log_softmax(logits)
