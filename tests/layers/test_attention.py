"""Attention whose steps lie in a ring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.mixer_config import AttentionConfig
from tests import oracle

WINDOW, STEPS, WIDTH = 4, 26, 16
X = jnp.float32(np.random.default_rng(0).normal(size=(2, STEPS, WIDTH)))


def mixer_of(window):
    config = AttentionConfig(num_heads=2, window=window, wavelength=100.0)
    mixer = config.build(ExecutionConfig(scan="sequential"))
    params = mixer.init(jax.random.key(0), X, mixer.init_state(2, WIDTH))["params"]
    read = jax.jit(lambda x, state: mixer.apply({"params": params}, x, state))
    return read, mixer.init_state(2, WIDTH), oracle.mix(config, params, np.float64(X))[0]


@pytest.mark.parametrize("size", [1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW])
def test_the_ring_goes_round_in_parts_of_any_size(size):
    read, state, expected = mixer_of(WINDOW)
    outputs = []
    for start in range(0, STEPS, size):
        y, state = read(X[:, start : start + size], state)
        outputs.append(y)
    # Float32 rounding of values of order 1.
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), expected, atol=2e-6)


@pytest.mark.parametrize(
    "window", [STEPS, pytest.param(STEPS + 1, marks=pytest.mark.nightly), 10 * STEPS]
)
def test_a_window_as_long_as_the_sequence_is_full_causal_attention(window):
    read, state, _ = mixer_of(window)
    _, _, full = mixer_of(STEPS)
    np.testing.assert_allclose(read(X, state)[0], full, atol=2e-6)
