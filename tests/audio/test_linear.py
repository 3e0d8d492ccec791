import numpy as np
import pytest

from poolformer_jax.audio.linear import linear_decode, linear_encode

ALL_CODES = np.arange(256, dtype=np.uint8)


def test_all_codes_round_trip():
    np.testing.assert_array_equal(linear_encode(linear_decode(ALL_CODES)), ALL_CODES)


@pytest.mark.parametrize(
    ("x", "code"), [(0.0, 128), (1.0, 255), (-1.0, 0), (0.5, 191), (1.5, 255), (-1.5, 0)]
)
def test_encode_of_known_values(x, code):
    # 0.5: trunc(0.75 * 255.99 + 0.005) = trunc(191.9975).
    assert linear_encode(np.array([x])) == code
    assert linear_encode(np.array([x], np.float32)) == code


def test_decode_is_evenly_spaced():
    np.testing.assert_allclose(linear_decode(ALL_CODES), np.linspace(-1, 1, 256), atol=1e-15)
