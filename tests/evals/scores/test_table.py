import math

import pytest

from poolformer_jax.evals.scores.bootstrap import Interval
from poolformer_jax.evals.scores.metrics import Score
from poolformer_jax.evals.scores.published import PUBLISHED_SC09
from poolformer_jax.evals.scores.table import (
    PUBLISHED_HEADER,
    format_score,
    published_row,
    text_table,
)


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


def test_columns_are_aligned():
    lines = text_table([("a", "1"), ("name", "1,000")], header=("", "clips")).splitlines()
    assert lines == ["      clips", "----  -----", "a         1", "name  1,000"]


def test_published_rows_keep_their_decimals():
    rows = {row[0] + row[1]: row for row in map(published_row, PUBLISHED_SC09)}
    assert PUBLISHED_HEADER[3:] == ("FID ↓", "IS-S4 ↑", "mIS ↑", "AM ↓")
    assert rows["real, train–"][2:] == ("–", "0.00", "8.56", "292.5", "0.16")
    assert rows["real, test–"][2:] == ("–", "0.02", "8.33", "257.6", "0.19")
    assert rows["Poolformer7.3M"][2:] == ("1.854", "0.46", "6.46", "–", "–")
    assert rows["Mamba24.3M"][2:] == ("1.860", "0.67", "7.33", "144.9", "0.36")
    assert rows["Mamba6.1M"][2:] == ("1.852", "0.94", "6.26", "88.54", "0.52")
    assert rows["DiffWave + SaShiMi23.0M"][2:] == ("–", "1.42", "5.94", "69.17", "0.59")
    assert rows["SaShiMi5.8M"][2:] == ("1.873", "1.99", "5.13", "42.57", "0.74")
    assert rows["WaveNet4.2M"][2:] == ("1.925", "5.08", "2.27", "5.80", "1.47")
    assert rows["SampleRNN35.0M"][2:] == ("2.042", "8.96", "1.71", "3.02", "1.76")
