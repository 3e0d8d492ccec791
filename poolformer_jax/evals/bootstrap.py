"""How far a score would move if its clips were drawn again, by resampling them (bootstrap)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int, Int64
from scipy.special import ndtri

Statistic = Callable[[Int[np.ndarray, " n"]], float]
"""Score of the clips with these indices; an index may occur more than once."""

_DRAWS_AT_ONCE = 1_000_000  # Bounds the memory of `bootstrap_ratio` to a few times 8 MB.


@dataclasses.dataclass(frozen=True)
class Interval:
    """Where the expected score of as many fresh clips lies.

    Attributes:
      low: Lower end.
      high: Upper end.
      confidence: Probability that the interval covers the expected score.
      resamples: Of the clips, that its width was estimated from.
    """

    low: float
    high: float
    confidence: float
    resamples: int


def bootstrap_interval(
    statistic: Statistic,
    n: int,
    *,
    score: float | None = None,
    resamples: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """Puts a normal interval around a score, as wide as the score of resampled clips varies.

    The interval is score ± z * (standard deviation of the scores of `resamples` sets of n clips,
    drawn with replacement). The percentiles of those scores are no interval for these statistics: a
    resample repeats clips, which shifts the Fréchet distance and the number of different cells
    upward by more than they vary. In simulations with known expectations (95 %, 8 features or 10
    classes, 100 to 2,000 clips, 50 or 200 resamples) percentiles covered 1 to 99 % of the time,
    this interval 93 to 100 %; it is too wide, never too narrow, where the clips are as good as the
    reference.

    It says how the score would vary with other clips from the same generator, in the same number:
    neither the bias of a score at this number of clips, nor the choice of the reference, nor the
    training of the generator is in it.

    Args:
      statistic: Score to evaluate.
      n: Clips.
      score: Of all clips, if it is known; evaluated if None.
      resamples: Of the clips; the width has a relative standard error of (2 * resamples)^-1/2.
      seed: Of the resamples.
      confidence: Of the interval, 0 to 1.
      bounds: Smallest and largest possible score; the interval ends there.

    Raises:
      ValueError: If there are fewer than 2 resamples, the confidence is no probability, or a score
        isn't finite.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapters 6 and 12.
    """
    if resamples < 2:
        raise ValueError(f"{resamples} resamples have no spread; use at least 2")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence} is not between 0 and 1")
    rng = np.random.default_rng(seed)
    if score is None:
        score = statistic(np.arange(n))
    scores = np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)])
    if not np.isfinite([score, *scores]).all():
        raise ValueError(f"the score is {score}, and not finite for every resample: no interval")
    reach = float(ndtri((1 + confidence) / 2) * scores.std(ddof=1))
    low, high = max(score - reach, bounds[0]), min(score + reach, bounds[1])
    return Interval(low, high, confidence, resamples)


def bootstrap_ratio(
    numerators: Float64[np.ndarray, " b"],
    denominators: Int64[np.ndarray, " b"],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval | None:
    """Percentile interval of sum(numerators) / sum(denominators) over the choice of clips.

    Clips are drawn with replacement, as a whole: the samples of a clip are not independent.

    Args:
      numerators: Of each clip, such as its bits.
      denominators: Of each clip, such as its samples; positive.
      confidence: Of the interval, 0 to 1.
      resamples: Sets to draw, each of as many clips as there are.
      seed: Of the draw.

    Returns:
      The interval; None for less than two clips, which do not tell how clips differ.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    num_clips = len(numerators)
    if num_clips < 2:
        return None
    rng = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    block = max(1, _DRAWS_AT_ONCE // num_clips)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = rng.integers(num_clips, size=(count, num_clips))
        sums = numerators[drawn].sum(axis=1), denominators[drawn].sum(axis=1)
        ratios[start : start + count] = sums[0] / sums[1]
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Interval(low, high, confidence, resamples)
