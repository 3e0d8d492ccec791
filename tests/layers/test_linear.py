import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.layers.linear import (
    BlockDiagonalLinear,
    apply_after_dense,
    apply_block_diagonal,
)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize(("num_blocks", "inputs", "features"), [(1, 6, 4), (3, 6, 9), (6, 6, 6)])
def test_equals_separate_blocks(num_blocks, inputs, features, steps):
    rng = np.random.default_rng(0)
    i, o = inputs // num_blocks, features // num_blocks
    kernel, bias = rng.normal(size=(num_blocks, i, o)), rng.normal(size=(num_blocks, o))
    x = rng.normal(size=(2, steps, inputs))
    params = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    y = BlockDiagonalLinear(features, num_blocks).apply({"params": params}, jnp.float32(x))
    expected = np.empty((2, steps, features))
    for n in range(num_blocks):
        block = x[..., n * i : (n + 1) * i] @ kernel[n] + bias[n]
        expected[..., n * o : (n + 1) * o] = block
    # Float32 rounding of sums of a few terms of order 1.
    np.testing.assert_allclose(y, expected, atol=1e-6)
    weights = (params["kernel"], params["bias"].reshape(-1))
    negative = jax.tree.map(jnp.negative, weights)
    both = apply_block_diagonal(jnp.float32(x), [weights, negative])
    np.testing.assert_allclose(both, np.concatenate([y, -y], axis=-1), atol=1e-7)


def test_gradient_reaches_only_the_blocks():
    layer = BlockDiagonalLinear(6, 3)
    x = jnp.ones((1, 1, 6))
    params = layer.init(jax.random.key(0), x)["params"]
    gradient = jax.grad(lambda p: jnp.sum(layer.apply({"params": p}, x)))(params)
    np.testing.assert_allclose(gradient["kernel"], np.ones((3, 2, 2)))
    np.testing.assert_allclose(gradient["bias"], np.ones((3, 2)))


def test_initial_variances_are_those_of_the_published_code():
    num_blocks, inputs, features = 32, 256, 128
    layer = BlockDiagonalLinear(features, num_blocks)
    init = jax.jit(jax.vmap(lambda key: layer.init(key, jnp.zeros((1, 1, inputs)))["params"]))
    params = init(jax.random.split(jax.random.key(0), 500))
    # 512,000 and 64,000 draws: the variance's standard error is 0.2 % and 0.5 %.
    assert np.var(params["kernel"]) == pytest.approx(1 / inputs, rel=0.02)
    assert np.var(params["bias"]) == pytest.approx(1 / num_blocks, rel=0.02)
    # Truncated at two standard deviations of the untruncated normal.
    limit = 2 / 0.87962566103423978
    assert np.abs(params["kernel"]).max() <= limit / np.sqrt(inputs) * (1 + 1e-6)
    assert np.abs(params["bias"]).max() <= limit / np.sqrt(num_blocks) * (1 + 1e-6)


def test_after_a_dense_layer_equals_one_after_the_other():
    rng = np.random.default_rng(0)
    dense = {"kernel": rng.normal(size=(4, 6)), "bias": rng.normal(size=6)}
    dense = jax.tree.map(jnp.float32, dense)
    params = {"kernel": rng.normal(size=(3, 2, 3)), "bias": rng.normal(size=(3, 3))}
    params = jax.tree.map(jnp.float32, params)
    x = jnp.float32(rng.normal(size=(2, 5, 4)))
    layer = BlockDiagonalLinear(9, 3)
    expected = layer.apply({"params": params}, x @ dense["kernel"] + dense["bias"][None, None])
    weights = (params["kernel"], params["bias"].reshape(-1))
    found = apply_after_dense(x, dense, [weights])
    # Float32 rounding of sums of a few terms of order 1.
    np.testing.assert_allclose(found, expected, atol=5e-6)
