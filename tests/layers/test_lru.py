"""How parameters of the LRU and the RG-LRU are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.lru import init_decay
from poolformer_jax.layers.mixer_config import LRUConfig, RGLRUConfig
from poolformer_jax.typing import Planes

KINDS = [RGLRUConfig, LRUConfig]


def make_init(config, width=1):
    mixer = config.build(ExecutionConfig(scan="sequential"))
    x, state = jnp.zeros((1, 1, width)), mixer.init_state(1, width)
    return lambda key: mixer.init(key, x, state)["params"]


def test_decay_is_uniform_in_area_between_the_radii():
    decay = np.asarray(init_decay(jax.random.key(0), (20_000,)), np.float64)
    radius = np.exp(-np.log1p(np.exp(decay)))
    low, high = 0.81, 0.9801
    uniform = scipy.stats.uniform(low, high - low)
    assert scipy.stats.kstest(radius**2, uniform.cdf).pvalue > 0.01
    # Float32 rounding of Lambda.
    assert low - 1e-6 <= (radius**2).min() and (radius**2).max() <= high + 1e-6


@pytest.mark.parametrize(("kind", "max_phase"), [(RGLRUConfig, np.pi / 10), (LRUConfig, 2 * np.pi)])
def test_theta_is_uniform_up_to_the_maximal_phase(kind, max_phase):
    width = 40_000
    gates = {"num_gate_blocks": width // 2} if kind is RGLRUConfig else {}
    init = make_init(kind(recurrent_width=width, max_phase=max_phase, **gates))
    # Unused matrices of this width are never computed.
    theta = jax.jit(lambda key: init(key)["theta"])(jax.random.key(0))
    assert theta.shape == (width // 2,)
    assert scipy.stats.kstest(theta, scipy.stats.uniform(0, max_phase).cdf).pvalue > 0.01
    assert theta.min() >= 0 and theta.max() <= max_phase


@pytest.mark.parametrize("kind", KINDS)
def test_projections_start_with_variance_one_over_inputs_and_no_bias(kind):
    params = jax.jit(make_init(kind(recurrent_width=256), width=128))(jax.random.key(0))
    for name, inputs in (("input_projection", 128), ("output_projection", 256)):
        # 32,768 draws: the standard error of the variance is 0.8 %.
        assert np.var(params[name]["kernel"]) == pytest.approx(1 / inputs, rel=0.03)
        assert not np.any(params[name]["bias"])
    if kind is RGLRUConfig:
        # The gates' biases are drawn, as in the published code.
        assert np.any(params["input_gate"]["bias"]) and np.any(params["recurrence_gate"]["bias"])


@pytest.mark.parametrize("kind", KINDS)
def test_real_variant_has_no_phase(kind):
    config = kind(recurrent_width=64, complex=False)
    params = jax.eval_shape(make_init(config), jax.random.key(0))
    assert "theta" not in params and params["decay"].shape == (64,)
    state = config.build(ExecutionConfig()).init_state(2, 4)
    assert not isinstance(state, Planes) and state.shape == (2, 64)
