import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.layers.mixer_config import LRUConfig, RGLRUConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.poolformer.model import PoolformerNetwork

SMALL = PoolformerConfig(
    num_codes=16,
    initial_code=8,
    width=8,
    mixer=LRUConfig(recurrent_width=16),
    pool_factors=(2,),
    layers=(0, 2),
    embedding="mlp",
    norm="rms_norm",
    num_classes=3,
    platform="cpu",
)
WHOLE = dataclasses.replace(
    SMALL,
    mixer=RGLRUConfig(recurrent_width=16, num_gate_blocks=2),
    layers=(1, 2),
    temporal_convolution=True,
    remat="half_block",
)


def test_parameters_have_the_same_shapes_on_every_platform():
    for scan in ("auto", "fused", "pallas"):
        model = dataclasses.replace(WHOLE, platform="tpu", scan=scan).build()
        codes = jnp.zeros((1, 2), jnp.int32)
        init = model.network_type(model.config).init
        expected = jax.eval_shape(init, jax.random.key(0), codes, model.init_state(1))["params"]
        found = jax.eval_shape(model.init_params, jax.random.key(0))
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)


@pytest.mark.parametrize("config", [SMALL, pytest.param(WHOLE, marks=pytest.mark.slow)])
def test_parameters_are_those_that_flax_draws(config):
    model, key = config.build(), jax.random.key(3)
    codes = jnp.zeros((1, 2), jnp.int32)
    expected = jax.jit(PoolformerNetwork(config).init)(key, codes, model.init_state(1))["params"]
    jax.tree.map(
        # Bit for bit with all of XLA's optimisations; without them it rounds a sum otherwise.
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        model.init_params(key),
        expected,
    )
