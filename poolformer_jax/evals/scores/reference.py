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
from poolformer_jax.evals.samples.wav_folder import FolderReport
from poolformer_jax.evals.scores.classified import ClassifiedClips
from poolformer_jax.evals.scores.frechet import Gaussian
from poolformer_jax.evals.scores.inception import mean_probs
from poolformer_jax.evals.scores.ndb import Cells, assign_cells, fit_cells
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
      report: What was odd about the clips.
    """

    key: str
    gaussian: Gaussian
    probs: Float64[np.ndarray, " classes"]
    cells: Cells
    report: FolderReport = FolderReport()

    @classmethod
    def of(
        cls,
        features: Float[np.ndarray, "b d"],
        log_probs: Float[np.ndarray, "b classes"],
        *,
        key: str,
        num_cells: int = 50,
        seed: int = 0,
        report: FolderReport | None = None,
    ) -> ReferenceStatistics:
        """Computes the statistics, in float64.

        Args:
          features: Of the reference clips.
          log_probs: Of their classes, `log_softmax` of the logits.
          key: `reference_key` of what these were computed from.
          num_cells: Cells of feature space.
          seed: Of the cells.
          report: What was odd about the clips.

        Raises:
          ValueError: If a feature isn't finite, a row of log_probs is no distribution, or there are
            fewer distinct clips than cells.
        """
        gaussian = Gaussian.of(features)
        cells = fit_cells(features, num_cells=num_cells, seed=seed)
        return cls(key, gaussian, mean_probs(log_probs), cells, report or FolderReport())

    def without(
        self, features: Float[np.ndarray, "b d"], log_probs: Float[np.ndarray, "b classes"]
    ) -> ReferenceStatistics:
        """What is left when some of the clips are taken out, so that they can be scored against it.

        The cells keep their centroids. These were fitted to both parts alike, so they favour
        neither: of two random parts the test of a cell still errs as often as it should.

        Raises:
          ValueError: If no clip is left, or as `of`.
        """
        gaussian = self.gaussian - Gaussian.of(features)
        sums = self.gaussian.count * self.probs - len(log_probs) * mean_probs(log_probs)
        taken = np.bincount(
            assign_cells(features, self.cells.centroids), minlength=len(self.cells.counts)
        )
        # A clip between two cells may fall to the other one when it is classified again, in another
        # batch. A class may be so rare that rounding leaves less than nothing.
        counts = np.maximum(self.cells.counts - taken, 0)
        probs = np.maximum(sums, 0.0)
        return dataclasses.replace(
            self,
            gaussian=gaussian,
            probs=probs / probs.sum(),
            cells=Cells(self.cells.centroids, counts),
        )

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
            report=json.dumps(dataclasses.asdict(self.report)),
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
            report = str(arrays.get("report", "{}"))  # Older files have none.
            reference = cls(
                found,
                Gaussian(arrays["mean"], arrays["scatter"], int(arrays["count"])),
                arrays["probs"],
                Cells(arrays["centroids"], arrays["cell_counts"]),
                FolderReport.of_json(report),
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
    """Reads the statistics of the reference, or computes them and keeps them as `<key>.npz`.

    Args:
      folder: Where references are kept.
      clips: The reference.
      classify: Classifies them.
      key: `reference_key` of all that they depend on.
      num_cells: Cells of feature space.

    Raises:
      ValueError: If the file is damaged, or there are fewer distinct clips than cells.
    """
    if clips.num_clips < num_cells:
        raise ValueError(
            f"{clips.num_clips} reference clips are too few for {num_cells} cells; pass more "
            "clips, or a smaller --num_cells"
        )
    path = folder / f"{key}.npz"
    try:
        return ReferenceStatistics.load(path, key=key)
    except FileNotFoundError:
        classified = classify(clips)
    reference = ReferenceStatistics.of(
        classified.features,
        classified.log_probs,
        key=key,
        num_cells=num_cells,
        report=classified.report,
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
      manifest: Hash of the data set's manifest, or of a folder's files.
      split: Of the data set, or how the files of a folder are read.
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
