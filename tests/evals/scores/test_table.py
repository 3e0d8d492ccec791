import math

import pytest

from poolformer_jax.evals.bootstrap import Interval
from poolformer_jax.evals.scores.metrics import Score
from poolformer_jax.evals.scores.table import format_score


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.46, 0.434, 0.486, "0.460 ± 0.026"),
        (0.01, 0.0, 0.04, "0.010 ± 0.030"),  # Cut off at 0.
        (8.5678, 8.3678, 8.7678, "8.57 ± 0.20"),
        (292.51, 277.1, 307.92, "293 ± 15"),
        (1.0, 1.0, 1.0, "1.00"),
        (1.02, 1.01996, 1.02004, "1.020 ± 0.000"),
    ],
)
def test_scores_to_the_digits_that_their_intervals_leave(value, low, high, text):
    assert format_score(Score(value, Interval(low, high, 0.95, 50))) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (0.4567, "0.457"), (42.46, "42.5"), (1316.4, "1316"), (math.inf, "inf")]
    + [(5e21, "5.00e+21"), (0.00012, "0.000")],
)
def test_scores_without_interval(value, text):
    assert format_score(Score(value, None)) == text
