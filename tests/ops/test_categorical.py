import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.ops.categorical import (
    Draw,
    draw_codes,
    excess_bits,
    guide_logits,
    log_probs_of,
    mask_padding,
    restrict_logits,
)
from tests import oracle


def clip_bits(logits, codes, *, lengths):
    num_codes = logits.shape[-1]
    excess = excess_bits(log_probs_of(logits, codes), num_codes)
    sums = jnp.sum(mask_padding(excess, lengths=lengths), axis=1)
    return sums + lengths.astype(jnp.float32) * math.log2(num_codes)


def random_clips(batch=3, steps=40, codes=16, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3.0, size=(batch, steps, codes)).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(rng.integers(codes, size=(batch, steps)), jnp.int32)


def test_equals_oracle():
    logits, codes = random_clips()
    lengths = jnp.asarray([40, 17, 1])
    bits = clip_bits(logits, codes, lengths=lengths)
    expected = oracle.bits(np.asarray(logits, np.float64), np.asarray(codes), lengths)
    # Float32 rounding of the softmax, relative to a few bits.
    mean = np.asarray(bits).sum() / np.asarray(lengths).sum()
    np.testing.assert_allclose(mean, expected, rtol=1e-6)


def test_samples_equal_oracle():
    logits, codes = random_clips()
    excess = np.asarray(excess_bits(log_probs_of(logits, codes), 16), np.float64)
    one_by_one = [
        oracle.bits(np.asarray(logits[:, t : t + 1], np.float64), codes[:, t : t + 1], [1, 1, 1])
        for t in range(40)
    ]
    # A few ulp of the largest logits and bits, about 10, in float32.
    np.testing.assert_allclose(excess.mean(axis=0) + 4.0, one_by_one, rtol=0, atol=3e-6)


def test_uniform_logits_cost_exactly_eight_bits():
    lengths = jnp.asarray([16000, 7])
    bits = clip_bits(
        jnp.full((2, 16000, 256), 3.0), jnp.zeros((2, 16000), jnp.int32), lengths=lengths
    )
    np.testing.assert_array_equal(bits, [8 * 16000, 8 * 7])


def test_a_clip_does_not_depend_on_its_batch():
    logits, codes = random_clips()
    lengths = jnp.asarray([40, 17, 5])
    together = clip_bits(logits, codes, lengths=lengths)
    alone = [
        clip_bits(logits[i : i + 1], codes[i : i + 1], lengths=lengths[i : i + 1])[0]
        for i in range(3)
    ]
    # The order of a float32 sum may change with the shape.
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_length_zero_costs_nothing():
    logits, codes = random_clips(batch=1)
    assert clip_bits(logits, codes, lengths=jnp.asarray([0]))[0] == 0.0


def test_padding_is_irrelevant_even_if_not_finite():
    logits, codes = random_clips()
    lengths = jnp.asarray([30, 20, 10])
    padding = np.arange(40)[None] >= np.asarray(lengths)[:, None]
    other_codes = jnp.where(padding, 15 - codes, codes)
    other_logits = jnp.where(padding[..., None], jnp.nan, logits)
    np.testing.assert_array_equal(
        clip_bits(logits, codes, lengths=lengths),
        clip_bits(other_logits, other_codes, lengths=lengths),
    )


def test_long_sums_are_accurate():
    steps, num_codes = 160_000, 16
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(1, steps, num_codes)).astype(np.float32)
    codes = rng.integers(num_codes, size=(1, steps))
    bits = clip_bits(
        jnp.asarray(logits), jnp.asarray(codes, jnp.int32), lengths=jnp.asarray([steps])
    )
    wide = logits[0].astype(np.float64)
    nats = np.logaddexp.reduce(wide, axis=-1) - wide[np.arange(steps), codes[0]]
    # An ulp of the result; adding up one by one in float32 would be off by about 1e-5.
    np.testing.assert_allclose(bits[0], nats.sum() / np.log(2), rtol=2e-7)


def test_bfloat16_logits_are_normalised_in_float32():
    logits, codes = random_clips()
    lengths = jnp.asarray([40, 40, 40])
    low = logits.astype(jnp.bfloat16)
    np.testing.assert_array_equal(
        clip_bits(low, codes, lengths=lengths),
        clip_bits(low.astype(jnp.float32), codes, lengths=lengths),
    )


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


@pytest.mark.parametrize(("top_p", "codes"), [(0.5, 1), (0.75, 2), (0.875, 4)])
def test_codes_that_add_up_to_exactly_top_p_are_enough(top_p, codes):
    logits = jnp.log(jnp.float32([[0.5, 0.25, 0.125, 0.125]]))  # The last two are a tie.
    kept = np.isfinite(restrict_logits(logits, draw=Draw(top_p=top_p)))
    np.testing.assert_array_equal(kept[0], np.arange(4) < codes)


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
    noise = jax.random.gumbel(jax.random.key(0), (count, 5))
    codes = draw_codes(jnp.broadcast_to(LOGITS, (count, 5)), noise, draw=draw)
    frequencies = np.bincount(codes, minlength=5) / count
    # Five standard deviations of a frequency, at most sqrt(0.25 / 20,000) = 0.0035.
    np.testing.assert_allclose(frequencies, expected / expected.sum(), atol=0.018)
    assert np.all(frequencies[expected == 0] == 0)


def test_guidance_goes_from_the_logits_without_the_label_to_those_with_it_and_beyond():
    conditional, unconditional = jnp.array([[1.0, -2.0]]), jnp.array([[0.5, 4.0]])
    for weight, expected in ((0.0, [0.5, 4.0]), (1.0, [1.0, -2.0]), (3.0, [2.0, -14.0])):
        guided = guide_logits(conditional, unconditional, draw=Draw(guidance=weight))
        np.testing.assert_allclose(guided, [expected], rtol=1e-6)


def test_rows_are_independent():
    logits = jax.random.normal(jax.random.key(0), (4, 7))
    noise = jax.random.gumbel(jax.random.key(1), (4, 7))
    draw = Draw(top_k=5, top_p=0.9)
    run = jax.jit(draw_codes, static_argnames="draw")
    together = run(logits, noise, draw=draw)
    alone = [run(logits[row, None], noise[row, None], draw=draw)[0] for row in range(4)]
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
        ({"guidance": -1.0}, "guidance -1.0 must be finite and not negative"),
    ],
)
def test_values_that_cannot_work(fields, message):
    with pytest.raises(ValueError, match=message):
        Draw(**fields)


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-9, 1e-38, 1e-45, 0.0])
def test_low_temperatures_take_the_likeliest_code(temperature):
    logits = jnp.array([[1.0, 2.0, 5.0, 3.0], [-9.0, -4.0, -5.0, -4.5]])
    noise = jax.random.gumbel(jax.random.key(0), (2, 4))
    codes = draw_codes(logits, noise, draw=Draw(temperature=temperature))
    np.testing.assert_array_equal(codes, [2, 1])


def test_the_gradient_keeps_the_logits_alone():
    rng = np.random.default_rng(0)
    logits, codes = (
        jnp.float32(rng.normal(size=(2, 5, 7))),
        jnp.asarray(rng.integers(7, size=(2, 5))),
    )
    _, backward = jax.vjp(lambda logits: log_probs_of(logits, codes), logits)
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.shape == logits.shape]
    assert len(kept) == 1
    np.testing.assert_array_equal(kept[0], logits)
    (gradient,) = backward(jnp.ones((2, 5)))
    expected = np.eye(7)[codes] - np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)  # Float32, terms of order 1.
