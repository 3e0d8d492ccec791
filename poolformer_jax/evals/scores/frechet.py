"""Fréchet distance between two sets of features, each seen as a Gaussian."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float64


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Mean and scatter of features; `a + b` is that of both sets, `a - b` takes b out of a.

    Attributes:
      mean: Average feature.
      scatter: Sum of outer products of (feature - mean).
      count: Clips.
    """

    mean: Float64[np.ndarray, " d"]
    scatter: Float64[np.ndarray, "d d"]
    count: int

    @classmethod
    def of(cls, features: Float[np.ndarray, "b d"]) -> Gaussian:
        """Returns the statistics of a batch, accumulated in float64.

        Raises:
          ValueError: If the batch is empty or a feature isn't finite.
        """
        if not len(features):
            raise ValueError("0 clips have no mean feature; pass at least 1")
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{np.count_nonzero(~finite)} of {len(features)} clips have a feature that isn't "
                f"finite, first clip {np.argmin(finite)}; look at what the classifier was given"
            )
        features = features.astype(np.float64)
        mean = features.mean(axis=0)
        features -= mean
        return cls(mean, features.T @ features, len(features))

    def __add__(self, other: Gaussian) -> Gaussian:
        # Chan et al. 1979. The shift between the means is all that either scatter lacks; sums
        # of squares about 0 would cancel instead.
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = np.outer(shift, shift) * (self.count * other.count / count)
        return Gaussian(mean, self.scatter + other.scatter + between, count)

    def __sub__(self, other: Gaussian) -> Gaussian:
        count = self.count - other.count
        if count < 1:
            raise ValueError(f"{other.count} of {self.count} clips leave none; take fewer out")
        # What `+` added, solved for the part that is left.
        mean = self.mean + (self.mean - other.mean) * (other.count / count)
        shift = other.mean - mean
        between = np.outer(shift, shift) * (count * other.count / self.count)
        return Gaussian(mean, self.scatter - other.scatter - between, count)

    @property
    def covariance(self) -> Float64[np.ndarray, "d d"]:
        """The unbiased estimate, as `numpy.cov` makes it.

        Raises:
          ValueError: If there is one clip only.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} clip has no covariance; pass at least 2")
        return self.scatter / (self.count - 1)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Computes |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    Either covariance may be singular (fewer clips than features). With few clips the distance is
    too large on average, because their covariance is noisy: compare equal numbers of clips.

    Raises:
      ValueError: If the sets have other numbers of features, or one has less than 2 clips.

    Source: Heusel et al. 2017, arXiv:1706.08500.
    """
    return frechet_distance_to(a)(b)


def frechet_distance_to(reference: Gaussian) -> Callable[[Gaussian], float]:
    """Prepares `frechet_distance(reference, ·)`, so that the reference is decomposed once."""
    covariance = reference.covariance
    root, variance = _root(covariance), np.trace(covariance)

    def distance(other: Gaussian) -> float:
        if other.mean.shape != reference.mean.shape:
            raise ValueError(
                f"clips with {other.mean.size} features can't be compared with a reference of "
                f"{reference.mean.size}; use one classifier for both"
            )
        covariance = other.covariance
        # With S = F F^T, the trace of (S_a S_b)^(1/2) is the sum of the singular values of
        # F_a^T F_b. The eigenvalues of S_a S_b are their squares: they would lose half of the
        # digits wherever a covariance is nearly singular.
        cross = np.linalg.svd(root.T @ _root(covariance), compute_uv=False).sum()
        shift = other.mean - reference.mean
        squared = shift @ shift + variance + np.trace(covariance) - 2 * cross
        return max(float(squared), 0.0)  # Below 0 there is only rounding.

    return distance


def _root(covariance: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    """Returns F with F F^T = covariance."""
    variances, directions = np.linalg.eigh(covariance)
    return directions * np.sqrt(np.maximum(variances, 0.0))
