"""All scores of a set of clips, from a classifier's features and class probabilities."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from poolformer_jax.evals.bootstrap import Interval, Statistic, bootstrap_interval
from poolformer_jax.evals.scores.frechet import Gaussian, frechet_distance_to
from poolformer_jax.evals.scores.inception import (
    am_score,
    inception_score,
    inception_score_s4,
    modified_inception_score,
)
from poolformer_jax.evals.scores.ndb import assign_cells, ndb
from poolformer_jax.evals.scores.reference import ReferenceStatistics

# The fewest clips that published FIDs on SC09 are of (models without a likelihood, in the SaShiMi
# paper), and twice the width of the features.
MIN_FRECHET_CLIPS = 2_048


@dataclasses.dataclass(frozen=True)
class Score:
    """A score and how far it would vary with other clips.

    Attributes:
      value: Of all clips.
      interval: See `bootstrap_interval`; None if none was asked for.
    """

    value: float
    interval: Interval | None


@dataclasses.dataclass(frozen=True)
class SampleMetrics:
    """Scores of generated clips; `dataclasses.asdict` makes it JSON.

    Attributes:
      num_clips: Scored clips.
      num_reference: Clips that they are compared with.
      fid: Fréchet distance of the features (0 is best).
      fid_is_biased: Whether there are fewer than 2,048 clips. Every FID is too large on average,
        the more so the fewer clips there are; compare equal numbers of clips.
      inception_score: Standard definition (the number of classes is best).
      inception_score_s4: As the S4 / SaShiMi code computes it, from which the published scores on
        SC09 are (larger is better).
      modified_inception_score: mIS, from 10,000 pairs (higher is better).
      am_score: AM, in nats (lower is better).
      ndb: Share of feature space's cells that are filled differently (lower is better).
    """

    num_clips: int
    num_reference: int
    fid: Score
    fid_is_biased: bool
    inception_score: Score
    inception_score_s4: Score
    modified_inception_score: Score
    am_score: Score
    ndb: Score


def sample_metrics(
    reference: ReferenceStatistics,
    features: Float[np.ndarray, "b d"],
    log_probs: Float[np.ndarray, "b classes"],
    *,
    resamples: int = 50,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> SampleMetrics:
    """Computes all scores in float64.

    Args:
      reference: Of the training set, from the same classifier.
      features: Of the generated clips.
      log_probs: Of their classes, finite: `log_softmax` of the logits.
      resamples: For the interval of each score; none are computed if 0. What takes time is the
        Fréchet distance: with 1,024 features one took 1 s on an idle machine and 12 s on a busy
        one.
      seed: Of the resamples. The scores themselves draw with the seed 0 of the published code.
      on_progress: Called with the resamples done and their total, of all scores together: once
        before the first and after each; not at all without any.

    Raises:
      ValueError: If there are fewer than 2 clips, a feature or log-probability isn't finite, or the
        numbers of features or classes differ from the reference's.
    """
    n, num_classes = log_probs.shape
    if len(features) != n:
        raise ValueError(f"{len(features)} clips have features but {n} have log-probabilities")
    if num_classes != len(reference.probs):
        raise ValueError(
            f"clips with {num_classes} classes can't be compared with a reference of "
            f"{len(reference.probs)}; use one classifier for both"
        )
    if not np.isfinite(log_probs).all():
        raise ValueError("a log-probability isn't finite; pass log_softmax of the logits")
    done, total = 0, 6 * resamples

    def score(statistic: Statistic, low: float, high: float = math.inf) -> Score:
        def counted(clips: Int[np.ndarray, " n"]) -> float:
            nonlocal done
            resampled = statistic(clips)
            done += 1
            on_progress(done, total)
            return resampled

        value = statistic(np.arange(n))
        if not resamples:
            return Score(value, None)
        bounds = (low, high)
        return Score(
            value,
            bootstrap_interval(
                counted, n, score=value, resamples=resamples, seed=seed, bounds=bounds
            ),
        )

    if total:
        on_progress(done, total)
    distance = frechet_distance_to(reference.gaussian)
    # Before the cells, because it checks the features.
    fid = score(lambda clips: distance(Gaussian.of(features[clips])), 0.0)
    cells = assign_cells(features, reference.cells.centroids)
    return SampleMetrics(
        num_clips=n,
        num_reference=reference.gaussian.count,
        fid=fid,
        fid_is_biased=n < MIN_FRECHET_CLIPS,
        inception_score=score(
            lambda clips: inception_score(log_probs[clips]), 1.0, float(num_classes)
        ),
        inception_score_s4=score(lambda clips: inception_score_s4(log_probs[clips]), 1.0),
        modified_inception_score=score(
            lambda clips: modified_inception_score(log_probs[clips]), 1.0
        ),
        am_score=score(lambda clips: am_score(log_probs[clips], reference.probs), 0.0),
        ndb=score(lambda clips: ndb(cells[clips], reference.cells.counts), 0.0, 1.0),
    )
