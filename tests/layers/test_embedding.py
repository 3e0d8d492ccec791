import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.layers.embedding import InputEmbedding, LabelEmbedding, OutputHead

CODES = np.array([[0, 1, 128, 255]])


def embed(kind, width=8, **options):
    layer = InputEmbedding(256, width, kind, **options)
    variables = layer.init(jax.random.key(0), jnp.asarray(CODES))
    return layer.apply(variables, jnp.asarray(CODES)), variables.get("params", {})


def test_sinusoidal_equals_formula_and_has_no_parameters():
    x, params = embed("sinusoidal")
    assert not params
    for t, code in enumerate(CODES[0]):
        for i in range(4):
            frequency = 10000.0 ** (-i / 4)
            # Float64 rounded once.
            assert x[0, t, i] == pytest.approx(np.cos(code * frequency), abs=1e-7)
            assert x[0, t, 4 + i] == pytest.approx(np.sin(code * frequency), abs=1e-7)


def test_table_looks_codes_up():
    x, params = embed("table")
    np.testing.assert_array_equal(x[0], params["table"]["embedding"][CODES[0]])


def test_mlp_is_affine_in_the_code_scaled_to_plus_minus_one():
    x, params = embed("mlp")
    kernel, bias = params["mlp"]["kernel"][0], params["mlp"]["bias"]
    np.testing.assert_allclose(x[0, 0], bias - kernel, atol=1e-6)
    np.testing.assert_allclose(x[0, 3], bias + kernel, atol=1e-6)
    np.testing.assert_allclose(x[0, 2], bias + kernel * (2 * 128 / 255 - 1), atol=1e-6)


def test_mlp_bias_is_drawn_with_deviation_one_half():
    _, params = embed("mlp", width=40_000)
    # The standard error of a deviation of 40,000 draws is 0.4 %.
    assert np.std(params["mlp"]["bias"]) == pytest.approx(0.5, rel=0.02)
    assert np.mean(params["mlp"]["bias"]) == pytest.approx(0.0, abs=0.01)


def test_head_equals_formula_and_returns_float32():
    head = OutputHead(5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 3, 8))
    params = head.init(jax.random.key(0), jnp.float32(x))["params"]
    params["norm"]["bias"] = jnp.float32(rng.normal(size=8))
    params["projection"]["bias"] = jnp.float32(rng.normal(size=5))
    params = jax.tree.map(np.asarray, params)
    centred = x - x.mean(-1, keepdims=True)
    z = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) + params["norm"]["bias"]
    expected = z @ params["projection"]["kernel"] + params["projection"]["bias"]
    low = head.apply({"params": params}, jnp.bfloat16(x))
    assert low.dtype == jnp.float32
    # bfloat16 keeps 8 bits of inputs of order 2.
    np.testing.assert_allclose(low, expected, atol=0.05)
    full = head.apply({"params": params}, jnp.float32(x))
    np.testing.assert_allclose(full, expected, atol=2e-6)


def test_labels_add_their_vector_to_every_step_of_their_clip():
    layer, labels = LabelEmbedding(3, 4), jnp.array([2, 0, 3])
    x = jnp.float32(np.random.default_rng(0).normal(size=(3, 5, 4)))
    params = layer.init(jax.random.key(0), x, labels)["params"]
    np.testing.assert_array_equal(params["table"], np.zeros((4, 4)))
    table = np.float32(np.random.default_rng(1).normal(size=(4, 4)))
    y = layer.apply({"params": {"table": table}}, x, labels)
    for clip in range(3):
        for step in range(5):
            np.testing.assert_allclose(y[clip, step], x[clip, step] + table[labels[clip]])


def test_without_classes_labels_do_nothing():
    layer, x = LabelEmbedding(0, 4), jnp.ones((1, 2, 4))
    assert not layer.init(jax.random.key(0), x, None)
    np.testing.assert_array_equal(layer.apply({}, x, None), x)
