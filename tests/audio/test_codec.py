import inspect

import numpy as np
import pytest

from poolformer_jax.audio.codec import NUM_CODES, decode, encode, silence_code

CODECS = tuple(NUM_CODES)


@pytest.mark.parametrize("codec", CODECS)
def test_all_codes_round_trip_through_int16(codec):
    codes = np.arange(NUM_CODES[codec])
    np.testing.assert_array_equal(
        encode(decode(codes, codec=codec), codec=codec, normalize=False), codes
    )


@pytest.mark.parametrize("codec", CODECS)
def test_decode_does_not_wrap(codec):
    pcm = decode(np.arange(NUM_CODES[codec]), codec=codec)
    assert pcm[0] == -(2**15) and pcm[-1] == 2**15 - 1
    assert np.all(np.diff(pcm.astype(int)) > 0)


@pytest.mark.parametrize("codec", CODECS)
def test_zero_is_the_silence_code(codec):
    zeros = np.zeros(3, np.int16)
    assert np.all(encode(zeros, codec=codec, normalize=False) == silence_code(codec))


def test_normalize_matches_closed_form():
    # -1 + 2 (x - min) / (max - min + 1e-6) maps 0, 250, 1000 to -1, -0.5, 1 (but for 1e-9), and
    # trunc((x + 1)/2 * 255.99 + 0.005) these to 0, trunc(64.0025), 255.
    codes = encode(np.array([0, 250, 1000], np.int16), codec="linear", normalize=True)
    np.testing.assert_array_equal(codes, [0, 64, 255])


def test_without_normalize_full_scale_is_2_to_the_15():
    pcm = np.array([-(2**15), -(2**14), 2**14], np.int16)
    codes = encode(pcm, codec="linear", normalize=False)
    np.testing.assert_array_equal(codes, [0, 64, 191])


def test_pcm16_loses_nothing():
    pcm = np.arange(-(2**15), 2**15).astype(np.int16)
    codes = encode(pcm, codec="pcm16", normalize=False)
    np.testing.assert_array_equal(codes, pcm.astype(int) + 2**15)
    np.testing.assert_array_equal(decode(codes, codec="pcm16"), pcm)


def test_normalized_pcm16_fills_the_range():
    # -1, -0.5 and 1 (but for 2e-9) become 0, 2^15 - 2^14 and, saturated, 2^16 - 1.
    codes = encode(np.array([0, 250, 1000], np.int16), codec="pcm16", normalize=True)
    np.testing.assert_array_equal(codes, [0, 2**14, 2**16 - 1])


@pytest.mark.parametrize("codec", CODECS)
def test_normalize_ignores_gain_and_offset(codec):
    pcm = np.random.default_rng(0).integers(-500, 500, 100).astype(np.int16)
    # The 1e-6 of the formula shifts values by up to 2e-9 relative, far less than these codes' steps
    # except where a value meets a border; one code of difference is allowed.
    one = encode(pcm, codec=codec, normalize=True).astype(int)
    other = encode((20 * pcm + 1000).astype(np.int16), codec=codec, normalize=True).astype(int)
    assert np.abs(one - other).max() <= 1


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("normalize", [True, False])
def test_empty_clip_is_empty(codec, normalize):
    assert encode(np.zeros(0, np.int16), codec=codec, normalize=normalize).shape == (0,)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [-(2**15), -7, 0, 7, 2**15 - 1])
def test_normalized_constant_clip_is_silence(codec, value):
    codes = encode(np.full(5, value, np.int16), codec=codec, normalize=True)
    assert np.all(codes == silence_code(codec))


def test_unknown_codec_is_refused():
    # The import hook would refuse the name first, as a type error.
    unchecked = inspect.unwrap(encode)
    with pytest.raises(ValueError, match="unknown codec 'a_law'; known: mu_law, linear, pcm16"):
        unchecked(np.zeros(1, np.int16), codec="a_law", normalize=True)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("part", [slice(0, 3), slice(5, 9), slice(7, 7), slice(8, 100)])
def test_a_part_has_the_codes_it_has_in_the_whole(codec, normalize, part):
    pcm = np.random.default_rng(1).integers(-900, 2_000, 10).astype(np.int16)
    whole = encode(pcm, codec=codec, normalize=normalize)
    np.testing.assert_array_equal(
        encode(pcm, codec=codec, normalize=normalize, part=part), whole[part]
    )
