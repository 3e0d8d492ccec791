"""Bootstrap interval of a ratio of sums, such as bits per sample."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float64, Int64

_DRAWS_AT_ONCE = 1_000_000  # Bounds the memory to a few times 8 MB.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfidenceInterval:
    """Where a quantity lies, and how that was found.

    Attributes:
      low: Lower end.
      high: Upper end.
      level: Probability that such an interval holds the true value.
      num_resamples: Sets of clips that were drawn.
      seed: Of the draw.
    """

    low: float
    high: float
    level: float
    num_resamples: int
    seed: int


def bootstrap_ratio(
    numerators: Float64[np.ndarray, " b"],
    denominators: Int64[np.ndarray, " b"],
    *,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> ConfidenceInterval | None:
    """Percentile interval of sum(numerators) / sum(denominators) over the choice of clips.

    Clips are drawn with replacement, as a whole: the samples of a clip are not independent.

    Args:
      numerators: Of each clip, such as its bits.
      denominators: Of each clip, such as its samples; positive.
      level: Probability that is wanted.
      num_resamples: Sets to draw, each of as many clips as there are.
      seed: Of the draw.

    Returns:
      The interval; None for less than two clips, which do not tell how clips differ.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    num_clips = len(numerators)
    if num_clips < 2:
        return None
    rng = np.random.default_rng(seed)
    ratios = np.empty(num_resamples)
    block = max(1, _DRAWS_AT_ONCE // num_clips)
    for start in range(0, num_resamples, block):
        count = min(block, num_resamples - start)
        drawn = rng.integers(num_clips, size=(count, num_clips))
        sums = numerators[drawn].sum(axis=1), denominators[drawn].sum(axis=1)
        ratios[start : start + count] = sums[0] / sums[1]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return ConfidenceInterval(
        low=low, high=high, level=level, num_resamples=num_resamples, seed=seed
    )
