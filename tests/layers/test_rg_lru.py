import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from poolformer_jax.layers.rg_lru import RGLRU, init_decay, init_rg_lru_state
from poolformer_jax.typing import Planes

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH, STEPS, WIDTH, RECURRENT, BLOCKS = 2, 9, 4, 8, 2


def random_layer(complex, **options):
    layer = RGLRU(
        recurrent_width=RECURRENT,
        num_gate_blocks=BLOCKS,
        complex=complex,
        scan="sequential",
        **options,
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, STEPS, WIDTH))
    state = init_rg_lru_state(BATCH, RECURRENT, complex)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.float32(x), state)["params"]
    params = jax.tree.map(lambda p: jnp.float32(0.5 * rng.normal(size=p.shape)), shapes)
    params["decay"] -= 2.0  # Around the initial radii.
    return layer, params, x, state


def numpy_rg_lru(params, x, complex, exponent=8.0):
    """The equations, one step at a time, in float64; returns (output, last state)."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    channels = RECURRENT // 2 if complex else RECURRENT

    def gate(u, name):
        rows = []
        for n in range(BLOCKS):
            part = u[:, n * RECURRENT // BLOCKS : (n + 1) * RECURRENT // BLOCKS]
            rows.append(part @ p[name]["kernel"][n] + p[name]["bias"][n])
        return 1 / (1 + np.exp(-np.concatenate(rows, axis=1)))

    h = np.zeros((BATCH, channels), (complex and np.complex128) or np.float64)
    out = np.empty((BATCH, STEPS, WIDTH))
    for t in range(STEPS):
        u = x[:, t] @ p["input_projection"]["kernel"] + p["input_projection"]["bias"]
        gate_x, gate_a = gate(u, "input_gate"), gate(u, "recurrence_gate")
        a = np.exp(-exponent * gate_a * np.log1p(np.exp(p["decay"])))
        drive = np.sqrt(1 - a**2) * gate_x
        if complex:
            a = a * np.exp(1j * gate_a * p["theta"])
            u = u[:, :channels] + 1j * u[:, channels:]
        h = a * h + drive * u
        features = np.concatenate([h.real, h.imag], axis=1) if complex else h
        out[:, t] = features @ p["output_projection"]["kernel"] + p["output_projection"]["bias"]
    return out, h


@pytest.mark.parametrize("complex", [True, False], ids=["complex", "real"])
def test_equals_numpy_loop(complex):
    layer, params, x, state = random_layer(complex)
    out, last = jax.jit(layer.apply)({"params": params}, jnp.float32(x), state)
    expected, expected_last = numpy_rg_lru(params, x, complex)
    # Float32 rounding of nine steps with values of order 1.
    np.testing.assert_allclose(out, expected, atol=5e-6)
    last = np.asarray(last.real) + 1j * np.asarray(last.imag) if complex else np.asarray(last)
    np.testing.assert_allclose(last, expected_last, atol=5e-6)


def test_decay_exponent_is_used():
    layer, params, x, state = random_layer(True, decay_exponent=2.0)
    out, _ = jax.jit(layer.apply)({"params": params}, jnp.float32(x), state)
    np.testing.assert_allclose(out, numpy_rg_lru(params, x, True, 2.0)[0], atol=5e-6)


@pytest.mark.parametrize("complex", [True, False], ids=["complex", "real"])
def test_chunks_equal_whole(complex):
    layer, params, x, state = random_layer(complex)
    x = jnp.float32(x)
    apply = jax.jit(layer.apply)
    whole, whole_last = apply({"params": params}, x, state)
    first, middle = apply({"params": params}, x[:, :4], state)
    second, last = apply({"params": params}, x[:, 4:], middle)
    # The same operations step by step; matrix products may round differently with their shape.
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(last), jax.tree.leaves(whole_last), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_bfloat16_activations_keep_a_float32_state():
    layer, params, x, state = random_layer(True, dtype=jnp.bfloat16)
    out, last = jax.jit(layer.apply)({"params": params}, jnp.bfloat16(x), state)
    assert out.dtype == jnp.bfloat16 and last.real.dtype == jnp.float32
    # bfloat16 rounds x, the weights and the output, each to 8 bits, at a scale of about 4.
    np.testing.assert_allclose(np.float32(out), numpy_rg_lru(params, x, True)[0], atol=0.1)


def test_decay_is_uniform_in_area_between_the_radii():
    decay = np.asarray(init_decay(jax.random.key(0), (20_000,)), np.float64)
    radius = np.exp(-np.log1p(np.exp(decay)))
    low, high = 0.81, 0.9801
    uniform = scipy.stats.uniform(low, high - low)
    assert scipy.stats.kstest(radius**2, uniform.cdf).pvalue > 0.01
    # Float32 rounding of Lambda.
    assert low - 1e-6 <= (radius**2).min() and (radius**2).max() <= high + 1e-6


@pytest.mark.parametrize("max_phase", [np.pi / 10, 2 * np.pi])
def test_theta_is_uniform_up_to_the_maximal_phase(max_phase):
    width = 40_000
    layer = RGLRU(width, num_gate_blocks=width // 2, max_phase=max_phase, scan="sequential")
    x, state = jnp.zeros((1, 1, 1)), init_rg_lru_state(1, width, True)
    # Unused matrices of this width are never computed.
    theta = jax.jit(lambda key: layer.init(key, x, state)["params"]["theta"])(jax.random.key(0))
    assert theta.shape == (width // 2,)
    assert scipy.stats.kstest(theta, scipy.stats.uniform(0, max_phase).cdf).pvalue > 0.01
    assert theta.min() >= 0 and theta.max() <= max_phase


def test_projections_start_with_variance_one_over_inputs_and_no_bias():
    layer = RGLRU(256, num_gate_blocks=32, scan="sequential")
    x, state = jnp.zeros((1, 1, 128)), init_rg_lru_state(1, 256, True)
    params = jax.jit(layer.init)(jax.random.key(0), x, state)["params"]
    for name, inputs in (("input_projection", 128), ("output_projection", 256)):
        # 32,768 draws: the standard error of the variance is 0.8 %.
        assert np.var(params[name]["kernel"]) == pytest.approx(1 / inputs, rel=0.03)
        assert not np.any(params[name]["bias"])
    # The gates' biases are drawn, as in the published code.
    assert np.any(params["input_gate"]["bias"]) and np.any(params["recurrence_gate"]["bias"])


def test_real_variant_has_no_phase():
    _, params, _, state = random_layer(False)
    assert "theta" not in params and params["decay"].shape == (RECURRENT,)
    assert not isinstance(state, Planes) and state.shape == (BATCH, RECURRENT)
