"""Scores as rows of text, for the terminal and for the page."""

from __future__ import annotations

import math

from poolformer_jax.evals.scores.metrics import Score
from poolformer_jax.evals.scores.scoring import ScoredSet

COLUMNS = {
    "fid": "FID ↓",
    "inception_score": "IS ↑",
    "inception_score_s4": "IS-S4 ↑",
    "modified_inception_score": "mIS ↑",
    "am_score": "AM ↓",
    "ndb": "NDB ↓",
}
"""Fields of `SampleMetrics` and their headings; the arrow points to where it is better."""

HEADER = ("", "clips", *COLUMNS.values(), "class entropy ↑", "recognised ↑")


def score_row(scored: ScoredSet) -> tuple[str, ...]:
    """A set's title, number of clips and scores with half of their intervals.

    Behind them are the entropy in bits of the classes that the classifier hears, and the share of
    clips that it hears as what they were meant to be; nothing where the clips have no labels.
    """
    scores = [format_score(getattr(scored.metrics, field)) for field in COLUMNS]
    accuracy = scored.clips.accuracy
    recognised = "" if accuracy is None else f"{accuracy:.1%}"
    entropy = f"{scored.clips.class_entropy:.2f}"
    return (scored.title, f"{scored.metrics.num_clips:,}", *scores, entropy, recognised)


def format_score(score: Score) -> str:
    """Writes a score, and after ± half of its interval, to two digits of the latter."""
    value = score.value
    if not math.isfinite(value) or abs(value) >= 1e6:
        return f"{value:.2e}"
    # One end may be cut off, where the score can't be.
    interval = score.interval
    half = max(interval.high - value, value - interval.low) if interval else 0.0
    if not half:
        return f"{value:.{_decimals(value, digits=3)}f}"
    decimals = _decimals(half, digits=2)
    return f"{value:.{decimals}f} ± {half:.{decimals}f}"


def _decimals(value: float, *, digits: int) -> int:
    """Decimals that show so many significant digits, at most three."""
    if value == 0:
        return digits - 1
    return min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 3)
