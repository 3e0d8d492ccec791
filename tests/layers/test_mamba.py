"""What is Mamba's own: initial values, sizes, parts of time on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.mixer_config import MambaConfig
from poolformer_jax.mesh_config import MeshConfig

ON_CPU = ExecutionConfig(platform="cpu")


def build(config, width, execution=ON_CPU):
    mixer = config.build(execution)
    return mixer, (jnp.zeros((1, 4, width)), mixer.init_state(1, width))


@pytest.mark.parametrize(("width", "count"), [(64, 32_640), (128, 116_480), (256, 437_760)])
def test_number_of_parameters_and_flops(width, count):
    config = MambaConfig()
    mixer, inputs = build(config, width)
    params = jax.eval_shape(mixer.init, jax.random.key(0), *inputs)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    names = "input_projection", "selection_projection", "time_step", "output_projection"
    assert config.flops_per_step(width) == 2 * sum(params[name]["kernel"].size for name in names)


def test_initial_values():
    config = MambaConfig(output_scale=0.1)
    mixer, inputs = build(config, 128)
    params = mixer.init(jax.random.key(0), *inputs)["params"]
    dt = jax.nn.softplus(params["time_step_bias"])
    # Float32 rounding of the inverse of softplus.
    assert 1e-3 * (1 - 1e-5) <= dt.min() < 1.2e-3 and 0.08 < dt.max() <= 0.1 * (1 + 1e-5)
    np.testing.assert_allclose(np.median(np.log10(dt)), -2, atol=0.15)
    np.testing.assert_allclose(np.exp(params["a_log"]), np.arange(1, 17) * np.ones((256, 1)), 1e-6)
    np.testing.assert_array_equal(params["skip"], 1)
    bounds = {
        "input_projection": 128**-0.5,
        "convolution": 4**-0.5,
        "selection_projection": 256**-0.5,
        "time_step": 8**-0.5,
        "output_projection": 0.1 * 256**-0.5,
    }
    for name, bound in bounds.items():
        for values in params[name].values():
            # Of 256 values or more; the largest of 256 is below 0.95 with probability 2e-6.
            assert 0.95 * bound < np.abs(values).max() <= bound
            assert abs(np.mean(values)) < 0.2 * bound


def test_initial_values_of_complex_states_and_small_time_steps():
    mixer, inputs = build(MambaConfig(complex=True, dt_min=1e-7, dt_max=1e-6), 16)
    params = mixer.init(jax.random.key(0), *inputs)["params"]
    np.testing.assert_allclose(jax.nn.softplus(params["time_step_bias"]), 1e-4, rtol=1e-5)
    np.testing.assert_allclose(np.exp(params["a_log"]), 0.5, rtol=1e-6)
    np.testing.assert_array_equal(params["a_imag"], np.arange(16) * np.ones((32, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_size": 0}, "state_size 0 must be at least 1"),
        ({"convolution_width": 1}, "convolution_width 1 must be at least 2"),
        ({"dt_rank": 0}, "dt_rank 0 must be at least 1"),
        ({"dt_min": 0.2}, "dt_min 0.2 must be at most dt_max 0.1"),
        ({"output_scale": 0.0}, "output_scale 0.0 must be positive"),
    ],
)
def test_a_bad_value_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        MambaConfig(**options)


@pytest.mark.parametrize(
    ("config", "execution", "sizes"),
    [
        # Parts of two steps, fewer than the convolution looks back.
        pytest.param(
            MambaConfig(state_size=2, complex=True),
            ON_CPU,
            {"sequence": 8},
            marks=pytest.mark.slow,
        ),
        (
            MambaConfig(state_size=2),
            ExecutionConfig(scan="fused"),
            {"data": 2, "fsdp": 2, "sequence": 2},
        ),
    ],
    ids=["portable", "kernel"],
)
def test_parts_of_time_on_several_devices(config, execution, sizes, interpreted_kernels):
    mixer, rng = config.build(execution), np.random.default_rng(0)
    x = jnp.float32(rng.normal(size=(4, 16, 4)))
    weights = jnp.float32(rng.normal(size=x.shape))

    def draw(shapes):
        return jax.tree.map(lambda z: jnp.float32(0.5 * rng.normal(size=z.shape)), shapes)

    state = draw(mixer.init_state(4, 4))
    params = draw(jax.eval_shape(mixer.init, jax.random.key(0), x, state)["params"])

    def loss(params, x, state):
        def run(steps, shared):
            y, last = mixer.apply({"params": shared[0]}, *steps, shared[1])
            return (y,), last

        (y,), last = sharding.map_time(run, (x,), (params, state))
        total = jnp.sum(weights * y) + sum(jnp.sum(jnp.sin(z)) for z in jax.tree.leaves(last))
        return total, (y, last)

    gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    expected = jax.jit(gradient)(params, x, state)
    mesh = sharding.make_mesh(MeshConfig(**sizes))
    inputs = jax.device_put((params, x, state), sharding.replicated(mesh))
    found = jax.jit(sharding.on_mesh(mesh, gradient))(*inputs)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        # Float32 sums of other order.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
