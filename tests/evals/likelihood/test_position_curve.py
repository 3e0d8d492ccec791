import numpy as np
import pytest

from poolformer_jax.evals.likelihood.position_curve import position_curve


def random_positions(length, seed=0):
    rng = np.random.default_rng(seed)
    clips = np.sort(rng.integers(1, 50, length))[::-1].astype(np.int64)
    return rng.uniform(1, 8, length) * clips, clips


@pytest.mark.parametrize("length", [1, 2, 7, 500, 16_001])
def test_bins_are_means_and_add_up_to_the_whole(length):
    bits, clips = random_positions(length)
    curve = position_curve(bits, clips)
    assert curve.edges[0] == 0 and curve.edges[-1] == length
    for i, (first, end) in enumerate(zip(curve.edges, curve.edges[1:], strict=False)):
        assert first < end
        assert curve.num_samples[i] == sum(clips[first:end])
        # Float64 sums in another order.
        assert curve.bits_per_sample[i] == pytest.approx(
            sum(bits[first:end]) / sum(clips[first:end]), rel=1e-12
        )
    mean = np.dot(curve.bits_per_sample, curve.num_samples) / sum(curve.num_samples)
    assert mean == pytest.approx(bits.sum() / clips.sum(), rel=1e-12)


def test_bins_are_single_samples_and_then_quarters_of_an_octave():
    curve = position_curve(*random_positions(160_000))
    assert curve.edges[:9] == (0, 1, 2, 3, 4, 5, 6, 8, 9)
    late = np.array([edge for edge in curve.edges if edge > 1_000], np.float64)
    # The edges are whole samples: one in a thousand.
    np.testing.assert_allclose(late[1:-1] / late[:-2], 2**0.25, rtol=2e-3)
    assert 2**0.125 - 1e-3 < late[-1] / late[-2] < 2**0.375 + 1e-3
