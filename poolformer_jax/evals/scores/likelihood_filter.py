"""Which clips SaShiMi's filtered scores are computed on."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

LOW, HIGH = 0.40, 0.95
"""Quantiles of the likelihood: what the published search returns, whatever the model."""


def likelihood_quantile_filter(
    log_likelihoods: Float[np.ndarray, " b"],
    *,
    low: float = LOW,
    high: float = HIGH,
    seed: int = 0,
) -> Int[np.ndarray, " kept"]:
    """Picks clips of moderate likelihood from a random half, as the S4 / SaShiMi code does.

    That code reads clips in ascending order of likelihood and draws half of them without
    replacement, on which it chooses the two thresholds by the inception score. Scores are of the
    other half: those from rank int(low * m) up to and without rank int(high * m) of its m clips.
    Of 10,240 clips the half is 5,120, and ranks 2,048 to 4,863 are 2,816 clips. The search never
    updates the best score that it compares with, which stays 0, so that the last pair it tries
    wins: (0.40, 0.95) for every model. These are fixed here, and the first half is not used.

    Args:
      log_likelihoods: Of whole clips under the model that drew them (any unit). For a folder that
        is sorted by likelihood, the clips' positions do as well.
      low: Quantile of the half below which clips are too noisy.
      high: Quantile of the half from which clips are too plain.
      seed: Of the split. The published split was drawn after the random numbers of the metrics, in
        the same stream, so this one, of the same size, is another draw.

    Returns:
      Indices into `log_likelihoods`, in ascending order of likelihood.

    Raises:
      ValueError: If a likelihood isn't finite, the quantiles are no interval within [0, 1], or
        fewer than 2 clips are left.

    Source: Goel et al. 2022, arXiv:2202.09729, appendix C.3.1; github.com/state-spaces/s4,
    models/sashimi/sc09_classifier/test_speech_commands.py.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"quantiles {low} to {high} are no interval within 0 to 1")
    finite = np.isfinite(log_likelihoods)
    if not finite.all():
        clip = np.argmin(finite)
        raise ValueError(f"clip {clip} has log-likelihood {log_likelihoods[clip]}")
    size = len(log_likelihoods)
    ascending = np.argsort(log_likelihoods, kind="stable")
    tuning = np.random.RandomState(seed).choice(size, size // 2, replace=False)
    half = ascending[np.setdiff1d(np.arange(size), tuning)]
    kept = half[int(low * len(half)) : int(high * len(half))]
    if len(kept) < 2:
        raise ValueError(
            f"{len(kept)} of {size} clips lie between the quantiles {low} and {high} of the second "
            "half, and 2 are the fewest that have scores; draw more"
        )
    return kept.astype(np.int64)
