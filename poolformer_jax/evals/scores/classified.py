"""A classifier's outputs for a set of clips, with the clips' names and oddities."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int

from poolformer_jax.classifier.files import SavedClassifier
from poolformer_jax.classifier.inference import Classification, classify_audio
from poolformer_jax.evals.samples.clip_sets import ClipSet
from poolformer_jax.evals.samples.wav_folder import FolderReport


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassifiedClips(Classification):
    """Clips of a set as the classifier sees them.

    Attributes:
      names: Of the clips.
      report: What was odd about the clips.
    """

    names: tuple[str, ...]
    report: FolderReport

    def take(self, clips: Int[np.ndarray, " n"], report: FolderReport) -> ClassifiedClips:
        """Some of the clips, and what was odd about these."""
        return ClassifiedClips(
            names=tuple(self.names[clip] for clip in clips),
            features=self.features[clips],
            log_probs=self.log_probs[clips],
            report=report,
            labels=None if self.labels is None else self.labels[clips],
        )


def classify_clips(
    classifier: SavedClassifier,
    clips: ClipSet,
    *,
    batch_size: int,
    mesh: Mesh | None = None,
    on_progress: Callable[[int], None] = lambda num_clips: None,
) -> ClassifiedClips:
    """Classifies all clips of a set.

    Args:
      classifier: Its arrays may be on the devices already.
      clips: The set; at least one clip.
      batch_size: See `classify_audio`.
      mesh: The same.
      on_progress: The same.

    Raises:
      ValueError: If a clip can't be read.
    """
    names: list[str] = []
    labels: list[np.ndarray] = []
    report = FolderReport()

    def batches() -> Iterator[Float32[np.ndarray, "b t"]]:
        nonlocal report
        for batch in clips.read(batch_size):
            names.extend(batch.names)
            report += batch.report
            if batch.labels is not None:
                labels.append(batch.labels)
            yield batch.audio

    found = classify_audio(
        classifier.config,
        classifier.params,
        classifier.stats,
        batches(),
        batch_size=batch_size,
        mesh=mesh,
        on_progress=on_progress,
    )
    return ClassifiedClips(
        names=tuple(names),
        features=found.features,
        log_probs=found.log_probs,
        report=report,
        labels=np.concatenate(labels) if labels else None,
    )
