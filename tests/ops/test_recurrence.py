import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.ops.recurrence import normalized_recurrence, zero_state


@pytest.mark.parametrize("complex", [False, True])
def test_the_drive_of_a_channel_that_hardly_forgets_has_all_its_digits(complex):
    """sqrt(1 - |a|^2) = 1e-4, where 1 - |a|^2 taken as a difference would be 0 in float32."""
    channels = 3
    log_a = np.float32([-5e-9, -1e-8, -2e-7])
    _, last = normalized_recurrence(
        jnp.ones((1, 1, channels * (1 + complex))),
        jnp.asarray(log_a)[None, None],
        phase=jnp.zeros((1, 1, channels)) if complex else None,
        gate=None,
        h0=zero_state(1, channels, complex=complex),
        implementation="sequential",
    )
    expected = np.sqrt(-np.expm1(2.0 * np.float64(log_a)))
    assert expected[0] == pytest.approx(1e-4, rel=1e-6)
    for plane in last if complex else (last,):
        np.testing.assert_allclose(plane[0], expected, rtol=5e-7)  # Float32.
