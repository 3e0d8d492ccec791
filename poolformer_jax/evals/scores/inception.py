"""Scores of the classes that a classifier sees in a set of clips.

All take log-probabilities (`log_softmax` of the classifier's logits) rather than probabilities,
which round to 0 where a confident classifier's divergences are large. An exact 0 (log -inf) is
allowed, and 0 log 0 = 0. Everything is float64 and in nats.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64
from scipy.special import logsumexp

LogProbs = Float[np.ndarray, "b classes"]

# A sum of ten float32 probabilities is off by 1e-6; logits or probabilities by far more.
_MAX_LOG_SUM = 1e-3


def inception_score(log_probs: LogProbs) -> float:
    """Computes exp(mean over clips x of KL(p(y|x) || p(y))), with p(y) the mean over all clips.

    The standard definition, with one split. From 1 to the number of classes.

    Raises:
      ValueError: If a row is no distribution, or there is none.

    Source: Salimans et al. 2016, arXiv:1606.03498.
    """
    log_p = _distributions(log_probs)
    return float(np.exp(_divergence(log_p, _log_mean(log_p)).mean()))


def inception_score_s4(log_probs: LogProbs, *, seed: int = 0) -> float:
    """Computes what the S4 / SaShiMi code publishes as the inception score.

    Of a random half of the clips, exp(mean over classes c of KL(p(x|c) || uniform over x)), where
    p(x|c) = p(c|x) / (sum over x' of p(c|x')): the function that the code calls normalises over
    clips, not classes, and the classes' mean of the other half, to which it means to compare, drops
    out. All classes weigh the same here, while in `inception_score` each has weight p(c): for
    balanced classes the two agree, and a class that hardly occurs can make this one large, beyond
    the number of classes.

    Args:
      log_probs: Of the clips, in the order of their files.
      seed: Of the split, drawn by NumPy's legacy generator as the published code does.

    Raises:
      ValueError: If a row is no distribution, there are fewer than 2, or no clip of the half may
        be of any class.

    Source: github.com/state-spaces/s4, models/sashimi/metrics.py (`inception_score`). A class of
    probability exactly 0 in all clips of the half, where that code returns NaN, is left out.
    """
    if len(log_probs) < 2:
        raise ValueError(f"{len(log_probs)} clips can't be split in halves; pass at least 2")
    order = np.random.RandomState(seed).permutation(len(log_probs))
    log_p = _distributions(log_probs)[order[: len(order) // 2]]
    log_of_class = logsumexp(log_p, axis=0)
    occurs = log_of_class > -np.inf
    log_p_of_clip = (log_p[:, occurs] - log_of_class[occurs]).T
    uniform = np.full(len(log_p), -np.log(len(log_p)))
    return float(np.exp(_divergence(log_p_of_clip, uniform).mean()))


def modified_inception_score(
    log_probs: LogProbs, *, num_pairs: int = 10_000, seed: int = 0
) -> float:
    """Computes exp(mean over random pairs of clips of KL(p(y|x1) || p(y|x2))).

    Args:
      log_probs: Of the clips.
      num_pairs: Pairs, drawn with replacement; a clip may meet itself.
      seed: Of the pairs, drawn by NumPy's legacy generator as in the S4 code.

    Returns:
      From 1; infinite if p(y|x2) is exactly 0 where p(y|x1) isn't.

    Raises:
      ValueError: If a row is no distribution, or there is none.

    Source: Gurumurthy et al. 2017, arXiv:1706.02071 (m-IS).
    """
    log_p = _distributions(log_probs)
    first, second = np.random.RandomState(seed).randint(0, len(log_p), (num_pairs, 2)).T
    return float(np.exp(_divergence(log_p[first], log_p[second]).mean()))


def am_score(log_probs: LogProbs, reference_probs: Float[np.ndarray, " classes"]) -> float:
    """Computes KL(p_reference(y) || p(y)) + mean over clips x of H(p(y|x)), in nats.

    Args:
      log_probs: Of the clips.
      reference_probs: `mean_probs` of the training set.

    Returns:
      From 0; infinite if a class of the reference has probability exactly 0 in all clips.

    Raises:
      ValueError: If a row is no distribution, there is none, or the classes are others.

    Source: Zhou et al. 2018, arXiv:1703.02000 (AM score).
    """
    log_p = _distributions(log_probs)
    if log_p.shape[1] != len(reference_probs):
        raise ValueError(
            f"clips with {log_p.shape[1]} classes can't be compared with a reference of "
            f"{len(reference_probs)}; use one classifier for both"
        )
    with np.errstate(divide="ignore"):
        log_reference = np.log(reference_probs.astype(np.float64))
    mismatch = _divergence(log_reference[None], _log_mean(log_p))
    return float(mismatch[0] - _expectation(log_p, log_p).mean())


def mean_probs(log_probs: LogProbs) -> Float64[np.ndarray, " classes"]:
    """Returns the average over clips of the class probabilities, which sums to 1."""
    return np.exp(_log_mean(_distributions(log_probs)))


def _distributions(log_probs: LogProbs) -> Float64[np.ndarray, "b classes"]:
    """Checks that rows are log-probabilities, and removes the rounding of their sums."""
    if not len(log_probs):
        raise ValueError("0 clips have no score; pass at least 1")
    log_probs = log_probs.astype(np.float64)
    log_sums = logsumexp(log_probs, axis=1, keepdims=True)
    valid = np.abs(log_sums[:, 0]) < _MAX_LOG_SUM  # False for NaN.
    if not valid.all():
        clip = np.argmin(valid)
        raise ValueError(
            f"clip {clip} has probabilities that sum to {np.exp(log_sums[clip, 0]):.6g}, expected "
            "1; pass log_softmax of the classifier's logits"
        )
    return log_probs - log_sums


def _log_mean(log_p: Float64[np.ndarray, "b classes"]) -> Float64[np.ndarray, " classes"]:
    return logsumexp(log_p, axis=0) - np.log(len(log_p))


def _divergence(
    log_p: Float64[np.ndarray, "... k"], log_q: Float64[np.ndarray, "... k"]
) -> Float64[np.ndarray, "..."]:
    """KL(p || q) over the last axis."""
    with np.errstate(invalid="ignore"):  # -inf - -inf, which has no weight.
        return _expectation(log_p, log_p - log_q)


def _expectation(
    log_p: Float64[np.ndarray, "... k"], values: Float64[np.ndarray, "... k"]
) -> Float64[np.ndarray, "..."]:
    """Sum of p * values over the last axis, where p > 0."""
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        return np.where(p > 0, p * values, 0.0).sum(axis=-1)
