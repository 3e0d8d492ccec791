import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.sampling.draw import Draw, draw_codes, restrict_logits

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
LOGITS = jnp.log(jnp.float32(PROBABILITIES))[None] + 3.0  # Any constant will do.


def kept(draw):
    return set(np.flatnonzero(np.isfinite(restrict_logits(LOGITS, draw=draw)[0])).tolist())


@pytest.mark.parametrize(
    ("draw", "codes"),
    [
        (Draw(), {0, 1, 2, 3, 4}),
        (Draw(top_k=1), {1}),
        (Draw(top_k=3), {1, 3, 4}),
        (Draw(top_k=99), {0, 1, 2, 3, 4}),
        (Draw(top_p=0.39), {1}),
        (Draw(top_p=0.41), {1, 3}),
        (Draw(top_p=0.84), {1, 3, 4}),
        (Draw(top_p=0.999), {0, 1, 2, 3, 4}),
        # Of the three likeliest, two have 0.65 / 0.85 = 0.76 of the probability.
        (Draw(top_k=3, top_p=0.75), {1, 3}),
        # At half the temperature probabilities are squared: 0.16 / 0.275 = 0.58, then 0.81.
        (Draw(temperature=0.5, top_p=0.6), {1, 3}),
        (Draw(temperature=0.5, top_p=0.57), {1}),
    ],
)
def test_codes_that_may_be_drawn(draw, codes):
    assert kept(draw) == codes


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (Draw(), PROBABILITIES),
        (Draw(temperature=2.0), PROBABILITIES**0.5),
        (Draw(top_k=2), PROBABILITIES * [0, 1, 0, 1, 0]),
        (Draw(top_p=0.8), PROBABILITIES * [0, 1, 0, 1, 1]),
    ],
)
def test_frequencies_follow_the_distribution(draw, expected):
    count = 20_000
    keys = jax.random.split(jax.random.key(0), count)
    codes = draw_codes(jnp.broadcast_to(LOGITS, (count, 5)), keys, draw=draw)
    frequencies = np.bincount(codes, minlength=5) / count
    # Five standard deviations of a frequency, at most sqrt(0.25 / 20,000) = 0.0035.
    np.testing.assert_allclose(frequencies, expected / expected.sum(), atol=0.018)
    assert np.all(frequencies[expected == 0] == 0)


def test_temperature_zero_is_the_likeliest_code():
    keys = jax.random.split(jax.random.key(0), 1)
    assert draw_codes(LOGITS, keys, draw=Draw(temperature=0.0)) == 1


def test_rows_are_independent():
    logits = jax.random.normal(jax.random.key(0), (4, 7))
    keys = jax.random.split(jax.random.key(1), 4)
    draw = Draw(top_k=5, top_p=0.9)
    together = draw_codes(logits, keys, draw=draw)
    alone = [draw_codes(logits[row, None], keys[row, None], draw=draw)[0] for row in range(4)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1.0}, "temperature -1.0 must be finite and not negative"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"top_k": 0}, "top_k 0 must be at least 1"),
        ({"top_p": 0.0}, r"top_p 0.0 must be in \(0, 1\]"),
        ({"top_p": 1.5}, "top_p 1.5"),
    ],
)
def test_values_that_cannot_work(fields, message):
    with pytest.raises(ValueError, match=message):
        Draw(**fields)


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-9, 1e-38, 1e-45, 0.0])
def test_low_temperatures_take_the_likeliest_code(temperature):
    logits = jnp.array([[1.0, 2.0, 5.0, 3.0], [-9.0, -4.0, -5.0, -4.5]])
    keys = jax.random.split(jax.random.key(0), 2)
    codes = draw_codes(logits, keys, draw=Draw(temperature=temperature))
    np.testing.assert_array_equal(codes, [2, 1])
