"""What generated clips are compared with: statistics of the training set, computed once."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float64

from poolformer_jax.evals.samples.clip_sets import ClipSet
from poolformer_jax.evals.scores.classified import ClassifiedClips
from poolformer_jax.evals.scores.frechet import Gaussian
from poolformer_jax.evals.scores.inception import mean_probs
from poolformer_jax.evals.scores.ndb import Cells, fit_cells
from poolformer_jax.files import write_whole

Classify = Callable[[ClipSet], ClassifiedClips]

# Raised when the same features would give other statistics.
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class ReferenceStatistics:
    """Statistics of the reference clips, usually the whole training set.

    Attributes:
      key: `reference_key` of what they were computed from.
      gaussian: Of the features, for the Fréchet distance.
      probs: Mean class probabilities, for the AM score.
      cells: Of feature space, for NDB.
    """

    key: str
    gaussian: Gaussian
    probs: Float64[np.ndarray, " classes"]
    cells: Cells

    @classmethod
    def of(
        cls,
        features: Float[np.ndarray, "b d"],
        log_probs: Float[np.ndarray, "b classes"],
        *,
        key: str,
        num_cells: int = 50,
        seed: int = 0,
    ) -> ReferenceStatistics:
        """Computes the statistics, in float64.

        Args:
          features: Of the reference clips.
          log_probs: Of their classes, `log_softmax` of the logits.
          key: `reference_key` of what these were computed from.
          num_cells: Cells of feature space.
          seed: Of the cells.

        Raises:
          ValueError: If a feature isn't finite, a row of log_probs is no distribution, or there are
            fewer distinct clips than cells.
        """
        gaussian = Gaussian.of(features)
        cells = fit_cells(features, num_cells=num_cells, seed=seed)
        return cls(key, gaussian, mean_probs(log_probs), cells)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an npz file, in one go: a reader never sees half of it."""
        content = io.BytesIO()
        np.savez(
            content,
            key=self.key,
            mean=self.gaussian.mean,
            scatter=self.gaussian.scatter,
            count=self.gaussian.count,
            probs=self.probs,
            centroids=self.cells.centroids,
            cell_counts=self.cells.counts,
        )
        write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, key: str) -> ReferenceStatistics:
        """Reads what `save` wrote; the archive's checksums of all arrays are verified.

        Args:
          path: File.
          key: What the statistics have to be computed from.

        Raises:
          FileNotFoundError: If there is no such file.
          ValueError: If the file is damaged, or was computed from something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            found = str(arrays["key"])
            reference = cls(
                found,
                Gaussian(arrays["mean"], arrays["scatter"], int(arrays["count"])),
                arrays["probs"],
                Cells(arrays["centroids"], arrays["cell_counts"]),
            )
        except FileNotFoundError:
            raise
        except Exception as error:  # zipfile fails with whatever a flipped bit makes it do.
            raise ValueError(
                f"{path} is damaged ({error}); delete it, and the statistics are computed again"
            ) from error
        if found != key:
            raise ValueError(
                f"{path} was computed from something else (key {found}, expected {key}): another "
                "classifier, front end or data set; delete it, or use another path"
            )
        return reference


def cached_reference(
    folder: pathlib.Path, clips: ClipSet, classify: Classify, *, key: str, num_cells: int = 50
) -> ReferenceStatistics:
    """Reads the statistics of the reference, or computes them and keeps them as <key>.npz.

    Args:
      folder: Where references are kept.
      clips: The reference.
      classify: Classifies them.
      key: `reference_key` of all that they depend on.
      num_cells: Cells of feature space.

    Raises:
      ValueError: If the file is damaged, or there are fewer distinct clips than cells.
    """
    path = folder / f"{key}.npz"
    try:
        return ReferenceStatistics.load(path, key=key)
    except FileNotFoundError:
        classified = classify(clips)
    reference = ReferenceStatistics.of(
        classified.features, classified.log_probs, key=key, num_cells=num_cells
    )
    reference.save(path)
    return reference


def reference_key(
    *, classifier: str, front_end: str, manifest: str, split: str, num_cells: int = 50
) -> str:
    """Returns a name, 32 hexadecimal digits, for statistics that depend on nothing else.

    Args:
      classifier: Hash of the classifier's weights.
      front_end: Hash of the front end's settings.
      manifest: Hash of the data set's manifest.
      split: Of the data set.
      num_cells: Cells of feature space.

    Raises:
      ValueError: If a hash is empty.
    """
    parts = {"classifier": classifier, "front_end": front_end, "manifest": manifest}
    for name, value in parts.items():
        if not value:
            raise ValueError(f"the hash of {name} is empty; statistics of others would match it")
    parts["data"] = hashlib.sha256(f"{parts.pop('manifest')}/{split}".encode()).hexdigest()
    text = json.dumps({**parts, "num_cells": num_cells, "version": _VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
