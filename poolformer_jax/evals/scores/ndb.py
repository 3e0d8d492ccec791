"""Number of statistically different cells: do the samples fill feature space as real clips do?"""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Integer
from scipy.cluster.vq import kmeans2, vq
from scipy.special import ndtri

_MAX_ITERATIONS = 100


@dataclasses.dataclass(frozen=True)
class Cells:
    """A partition of feature space: every point belongs to the nearest centroid.

    Attributes:
      centroids: Mean feature of each cell's reference clips.
      counts: Reference clips in each cell.
    """

    centroids: Float64[np.ndarray, "cells d"]
    counts: Integer[np.ndarray, " cells"]


def fit_cells(features: Float[np.ndarray, "b d"], *, num_cells: int = 50, seed: int = 0) -> Cells:
    """Partitions feature space by K-means on the reference clips.

    Args:
      features: Of the reference clips, not whitened.
      num_cells: K.
      seed: Of the first centroids (k-means++).

    Raises:
      ValueError: If there are fewer distinct features than cells.
    """
    points = features.astype(np.float64)
    centroids = _spread_points(points, num_cells, np.random.default_rng(seed))
    labels = np.empty(0, np.int32)
    for _ in range(_MAX_ITERATIONS):
        previous = labels
        with warnings.catch_warnings():
            # A cell that runs empty stays where it is, and counts like any other.
            warnings.filterwarnings("ignore", message="One of the clusters is empty")
            centroids, labels = kmeans2(points, centroids, iter=1, minit="matrix")
        if np.array_equal(labels, previous):
            break
    labels = assign_cells(points, centroids)
    return Cells(centroids, np.bincount(labels, minlength=num_cells))


def assign_cells(
    features: Float[np.ndarray, "b d"], centroids: Float64[np.ndarray, "cells d"]
) -> Int[np.ndarray, " b"]:
    """Returns the index of the nearest centroid of each clip."""
    labels, _ = vq(features.astype(np.float64), centroids)
    return labels.astype(np.int64)


def different_cells(
    labels: Int[np.ndarray, " b"],
    reference_counts: Integer[np.ndarray, " cells"],
    *,
    alpha: float = 0.05,
) -> Bool[np.ndarray, " cells"]:
    """Tells the cells whose share of the clips differs from their share of the reference.

    A two-sided two-proportion z-test with the pooled proportion, cell by cell. A cell that holds
    none or all of both sets has no variance, and does not differ.

    Args:
      labels: Cell of each clip.
      reference_counts: Reference clips in each cell.
      alpha: Significance level: of the cells of two sets from one distribution about this
        fraction is told to differ.

    Source: Richardson & Weiss 2018, arXiv:1805.12462.
    """
    counts = np.bincount(labels, minlength=len(reference_counts))
    n, m = len(labels), int(reference_counts.sum())
    pooled = (counts + reference_counts) / (n + m)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    # Products, because the error of a cell may be 0.
    return np.abs(counts / n - reference_counts / m) > -ndtri(alpha / 2) * error


def ndb(
    labels: Int[np.ndarray, " b"],
    reference_counts: Integer[np.ndarray, " cells"],
    *,
    alpha: float = 0.05,
) -> float:
    """Returns the share of `different_cells`, 0 to 1: NDB / K. Lower is better."""
    return float(different_cells(labels, reference_counts, alpha=alpha).mean())


def _spread_points(
    points: Float64[np.ndarray, "b d"], num_points: int, rng: np.random.Generator
) -> Float64[np.ndarray, "k d"]:
    """k-means++: draws each point in proportion to its squared distance from those before.

    scipy's own starts give other centroids from version to version, under a keyword that was
    renamed, and compute all distances again for every centroid.
    """
    chosen = [points[rng.integers(len(points))]]
    squared = np.full(len(points), np.inf)
    while len(chosen) < num_points:
        difference = points - chosen[-1]
        squared = np.minimum(squared, np.einsum("bd,bd->b", difference, difference))
        total = squared.sum()
        if not total:
            raise ValueError(
                f"{len(points)} reference clips have {len(chosen)} distinct features, too few for "
                f"{num_points} cells; pass more clips or a smaller num_cells"
            )
        chosen.append(points[rng.choice(len(points), p=squared / total)])
    return np.stack(chosen)
