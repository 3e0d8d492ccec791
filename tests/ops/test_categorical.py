import math

import jax.numpy as jnp
import numpy as np

from poolformer_jax.ops.categorical import excess_bits, excess_sample_bits
from tests import oracle


def clip_bits(logits, codes, *, lengths):
    return excess_bits(logits, codes, lengths=lengths) + lengths * math.log2(logits.shape[-1])


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
    np.testing.assert_allclose(np.sum(bits) / np.sum(lengths), expected, rtol=1e-6)


def test_samples_equal_oracle():
    logits, codes = random_clips()
    excess = np.asarray(excess_sample_bits(logits, codes), np.float64)
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
