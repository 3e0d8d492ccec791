import numpy as np
import pytest

from poolformer_jax.audio.mu_law import mu_law_decode, mu_law_encode

ALL_CODES = np.arange(256, dtype=np.uint8)


def test_all_codes_round_trip():
    np.testing.assert_array_equal(mu_law_encode(mu_law_decode(ALL_CODES)), ALL_CODES)


@pytest.mark.parametrize(
    ("x", "code"), [(0.0, 128), (-0.0, 128), (1.0, 255), (-1.0, 0), (1.5, 255), (-1.5, 0)]
)
def test_encode_of_known_values(x, code):
    assert mu_law_encode(np.array([x])) == code
    assert mu_law_encode(np.array([x], np.float32)) == code


def test_encode_inverts_the_companding_curve():
    # At x = (256^q - 1) / 255 the curve is exactly q, so the code is trunc((q + 1)/2 * 255.99
    # + 0.005), but for the 1e-8 in the formula: q = 1/2 is far from a code's border.
    assert mu_law_encode(np.array([(256**0.5 - 1) / 255])) == int(0.75 * 255.99 + 0.005)


def test_decode_matches_closed_form():
    # |y| is 1 at both ends and 1/255 beside the centre.
    near_zero = (256 ** (1 / 255) - 1) / 255
    decoded = mu_law_decode(np.array([0, 127, 128, 255], np.uint8))
    np.testing.assert_allclose(decoded, [-1, -near_zero, near_zero, 1], rtol=1e-12)


def test_encode_never_decreases():
    assert np.all(np.diff(mu_law_encode(np.linspace(-1, 1, 10_001)).astype(int)) >= 0)
