import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from poolformer_jax.layers.blocks import GatedMerge, LayerStack, MLPBlock, normalize
from poolformer_jax.layers.config import BlockConfig, RematPolicy
from poolformer_jax.layers.mixer_config import LRUConfig, RGLRUConfig

WIDTH = 6
CONFIG = BlockConfig(mixer=RGLRUConfig(recurrent_width=8, num_gate_blocks=2), scan="sequential")


def perturb(params, seed=0):
    """Adds noise, so that no bias is zero and no scale is one."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + 0.3 * jnp.float32(rng.normal(size=p.shape)), params)


def random_input(steps=7, width=WIDTH, seed=1):
    return jnp.float32(np.random.default_rng(seed).normal(2.0, 1.0, size=(2, steps, width)))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x, p):
    x = np.asarray(x, np.float64)
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return centred / deviation * np.asarray(p["scale"]) + np.asarray(p["bias"])


class Norm(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x):
        return normalize(self.kind, jnp.dtype(jnp.float32), x)


def norm_of(kind, x):
    params = perturb(Norm(kind).init(jax.random.key(0), x).get("params", {}))
    return Norm(kind).apply({"params": params}, x), params


def test_layer_norm_equals_formula():
    x = random_input()
    y, params = norm_of("layer_norm", x)
    np.testing.assert_allclose(y, layer_norm(x, params["norm"]), atol=2e-6)


def test_layer_norm_survives_a_large_mean():
    x = random_input() + 1000.0
    y, params = norm_of("layer_norm", x)
    # Rounding of the centred values alone: float32 has 6e-5 at 1000. A fast variance would be off
    # by 6e-8 * 1000^2, as large as the variance.
    np.testing.assert_allclose(y, layer_norm(x, params["norm"]), atol=5e-4)


def test_rms_norm_equals_formula():
    x = random_input()
    y, params = norm_of("rms_norm", x)
    wide = np.asarray(x, np.float64)
    expected = (
        wide
        / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
        * np.asarray(params["norm"]["scale"])
    )
    np.testing.assert_allclose(y, expected, atol=2e-6)


def test_no_norm_is_the_identity():
    x = random_input()
    y, params = norm_of("none", x)
    np.testing.assert_array_equal(y, x)
    assert not params


def mlp_block(config, x):
    params = perturb(MLPBlock(config).init(jax.random.key(0), x)["params"])
    return MLPBlock(config).apply({"params": params}, x), params


def dense(x, p):
    return x @ np.asarray(p["kernel"], np.float64) + np.asarray(p["bias"], np.float64)


@pytest.mark.parametrize("gating", [True, False])
def test_mlp_block_equals_formula(gating):
    x = random_input()
    y, p = mlp_block(dataclasses.replace(CONFIG, gating=gating), x)
    z = layer_norm(x, p["norm"])
    main = dense(z, p["value"])
    main = main * gelu(dense(z, p["merge"]["gate"])) if gating else gelu(main)
    # Two products of float32 with values of order 10.
    np.testing.assert_allclose(y, x + dense(main, p["merge"]["projection"]), atol=2e-5)
    assert ("gate" in p["merge"]) == gating


def stack(config, num_layers, x, seed=0):
    """(module, random parameters, zero state)."""
    module = LayerStack(config, WIDTH, num_layers)
    state = module.init_state(x.shape[0])
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, state)["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda p: jnp.float32(0.3 * rng.normal(size=p.shape)), shapes)
    return module, params, state


def test_no_layers_are_the_identity():
    x = random_input()
    module = LayerStack(CONFIG, WIDTH, 0)
    state = module.init_state(2)
    variables = module.init(jax.random.key(0), x, state)
    assert not variables
    np.testing.assert_array_equal(module.apply(variables, x, state)[0], x)


def test_stacked_layers_equal_one_after_the_other():
    x = random_input()
    module, params, state = stack(CONFIG, 3, x)
    whole, _ = jax.jit(module.apply)({"params": params}, x, state)
    one = jax.jit(LayerStack(CONFIG, WIDTH, 1).apply)
    for i in range(3):
        layer = jax.tree.map(lambda p, i=i: p[i : i + 1], (params, state))
        x, _ = one({"params": layer[0]}, x, layer[1])
    np.testing.assert_allclose(whole, x, atol=1e-5)


def test_layers_are_drawn_independently():
    module = LayerStack(CONFIG, WIDTH, 2)
    x, state = random_input(), module.init_state(2)

    @jax.jit  # Draws that are not looked at are not compiled.
    def draw_kernel(key):
        return module.init(key, x, state)["params"]["layers"]["mlp"]["value"]["kernel"]

    kernel = draw_kernel(jax.random.key(0))
    assert not np.any(kernel[0] == kernel[1])


def test_temporal_convolution_is_causal_and_carries_its_state():
    config = dataclasses.replace(CONFIG, temporal_convolution=True)
    x = random_input(steps=8)
    module, params, state = stack(config, 1, x)
    apply = jax.jit(module.apply)
    whole, whole_state = apply({"params": params}, x, state)
    changed, _ = apply({"params": params}, x.at[:, 5, 0].add(1.0), state)
    np.testing.assert_array_equal(changed[:, :5], whole[:, :5])
    assert np.abs(changed[:, 5:] - whole[:, 5:]).min() > 0
    outputs = []
    for start, stop in ((0, 1), (1, 8)):  # Shorter and longer than the kernel.
        y, state = apply({"params": params}, x[:, start:stop], state)
        outputs.append(y)
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), whole, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(whole_state), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_temporal_convolution_state_is_the_last_two_normalised_inputs():
    config = dataclasses.replace(CONFIG, temporal_convolution=True)
    x = random_input()
    module, params, state = stack(config, 1, x)
    _, state = jax.jit(module.apply)({"params": params}, x, state)
    norm = jax.tree.map(lambda p: p[0], params["layers"]["mixer"]["norm"])
    np.testing.assert_allclose(state.convolution[0], layer_norm(x, norm)[:, -2:], atol=2e-6)


def test_dropout_needs_a_key():
    x = random_input()
    without, params = mlp_block(CONFIG, x)
    config = dataclasses.replace(CONFIG, dropout=0.5)
    quiet = MLPBlock(config).apply({"params": params}, x)
    np.testing.assert_array_equal(quiet, without)
    noisy = MLPBlock(config).apply({"params": params}, x, rngs={"dropout": jax.random.key(1)})
    assert np.any(noisy != without)


def test_dropout_drops_at_its_rate_and_scales_the_rest():
    config = dataclasses.replace(CONFIG, dropout=0.2)
    z = random_input(steps=5000)
    merge = GatedMerge(config, init_scale=1.0)
    params = perturb(merge.init(jax.random.key(0), z, z)["params"])
    full = merge.apply({"params": params}, z, z)
    dropped = merge.apply({"params": params}, z, z, rngs={"dropout": jax.random.key(1)})
    kept = np.asarray(dropped != 0)
    # 60,000 draws: the standard error of the rate is 0.0016.
    assert 1 - kept.mean() == pytest.approx(0.2, abs=0.008)
    np.testing.assert_allclose(dropped[kept], full[kept] / 0.8, rtol=1e-6)


def test_dropout_differs_between_layers():
    config = dataclasses.replace(CONFIG, dropout=0.5, norm="none")
    x = jnp.ones((1, 1, 6))
    module, params, state = stack(config, 2, x)
    # Only the projections' biases are left: each block adds its own power of ten, doubled where it
    # is kept, or nothing where it is dropped.
    params = jax.tree.map(jnp.zeros_like, params)
    for i, block in enumerate(("mixer", "mlp")):
        bias = params["layers"][block]["merge"]["projection"]["bias"]
        weights = jnp.asarray([1.0, 10.0])[:, None] * 100.0**i
        params["layers"][block]["merge"]["projection"]["bias"] = bias + weights
    rngs = {"dropout": jax.random.key(3)}
    y, _ = jax.jit(module.apply)({"params": params}, x, state, rngs=rngs)
    digits = np.asarray(y - 1.0)[0, 0].astype(int)
    masks = [tuple(digits // 10**place % 10 // 2) for place in range(4)]
    assert len(set(masks)) == 4, masks


def test_remat_recomputes_and_changes_nothing():
    x = random_input()
    gradients, activations = [], []
    mixer = LRUConfig(recurrent_width=4, complex=False)
    for remat in get_args(RematPolicy):
        config = dataclasses.replace(CONFIG, mixer=mixer, remat=remat, dropout=0.3)
        module, params, state = stack(config, 1, x)

        def loss(params, module=module, state=state):
            rngs = {"dropout": jax.random.key(4)}
            y, _ = module.apply({"params": params}, x, state, rngs=rngs)
            return jnp.sum(jnp.sin(y))

        gradients.append(jax.jit(jax.grad(loss))(params))
        # Of the gates' activations, in the forward pass and again in the backward pass.
        activations.append(str(jax.make_jaxpr(jax.grad(loss))(params)).count(" = tanh "))
    assert activations[1:] == [2 * activations[0]] * 3 and activations[0]
    for recomputed in gradients[1:]:
        # The same operations, fused differently.
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(
                ours, theirs, atol=2e-5 * np.abs(theirs).max()
            ),
            recomputed,
            gradients[0],
        )


def test_last_layers_start_small():
    block = MLPBlock(CONFIG, init_scale=1 / 17)
    params = block.init(jax.random.key(0), jnp.zeros((1, 1, 128)))["params"]
    kernel = params["merge"]["projection"]["kernel"]
    # 32,768 draws: the standard error of the variance is 0.8 %.
    assert np.var(kernel) == pytest.approx(1 / 17 / 256, rel=0.03)
    assert np.abs(kernel).max() > 3 * np.sqrt(1 / 17 / 256), "normal, not truncated"
    for p, inputs in ((params["value"], 128), (params["merge"]["gate"], 128)):
        assert np.var(p["kernel"]) == pytest.approx(1 / inputs, rel=0.03)
        assert not np.any(p["bias"])
    assert not np.any(params["merge"]["projection"]["bias"])
    np.testing.assert_array_equal(params["norm"]["scale"], 1.0)
    np.testing.assert_array_equal(params["norm"]["bias"], 0.0)
