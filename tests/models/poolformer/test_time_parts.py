"""A Poolformer whose clips are split over devices along time is the one on a single device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.layers.mixer_config import RGLRUConfig
from poolformer_jax.mesh_config import MeshConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig
from tests.models.random_models import random_params

CLIPS, LENGTH = 4, 48
# At the centre, each of eight parts has one step: the convolution sees two devices back.
CONFIG = PoolformerConfig(
    num_codes=16,
    initial_code=8,
    width=8,
    mixer=RGLRUConfig(recurrent_width=16, num_gate_blocks=2),
    pool_factors=(2, 3),
    layers=(1, 0, 1),
    temporal_convolution=True,
    remat="half_block",
    scan="sequential",
)
MODEL = CONFIG.build()
# Float32 sums of other order, through a few residual blocks.
TOLERANCE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def all_optimizations():
    """Without them, sums are added up one by one, with three times the rounding."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def gradient(params, codes, weights, state):
    """A loss of every log-probability and of the last state, and its gradients."""

    def loss(params, backbone):
        before = dataclasses.replace(state, backbone=backbone)
        log_probs, after = MODEL.log_probs(params, codes, before)
        remembered = sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(after.backbone))
        return jnp.sum(weights * log_probs) + remembered, (log_probs, after.previous)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, state.backbone)


@pytest.fixture(scope="module")
def inputs():
    """Codes after a chunk that was read before, from a state that is not zero."""
    rng, params = np.random.default_rng(0), random_params(CONFIG)
    before = rng.integers(16, size=(CLIPS, MODEL.chunk_multiple))
    _, state = jax.jit(MODEL.log_probs)(params, before, MODEL.init_state(CLIPS))
    codes = rng.integers(16, size=(CLIPS, LENGTH)).astype(np.int32)
    # All of one sign: sums that cancel leave little but rounding, which differs from CPU to CPU.
    return params, codes, rng.uniform(0.5, 1.5, size=codes.shape).astype(np.float32), state


@pytest.fixture(scope="module")
def whole(inputs):
    return jax.jit(gradient)(*inputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"sequence": 8}, id="1x8", marks=pytest.mark.nightly),
        pytest.param({"data": 2, "sequence": 4}, id="2x4", marks=pytest.mark.nightly),
        pytest.param({"fsdp": 4, "sequence": 2}, id="1x4x2", marks=pytest.mark.nightly),
        pytest.param({"data": 2, "fsdp": 2, "sequence": 2}, id="2x2x2"),
    ],
)
def test_log_probs_state_and_gradients_are_those_of_one_device(inputs, whole, sizes):
    params, codes, weights, state = inputs
    mesh = sharding.make_mesh(MeshConfig(**sizes))
    rules = MODEL.parameter_rules
    params = jax.device_put(params, sharding.state_sharding(mesh, params, rules))
    batch = sharding.put_batch(mesh, {"codes": codes, "weights": weights})
    found = jax.jit(sharding.on_mesh(mesh, gradient))(
        params, batch["codes"], batch["weights"], state
    )

    wanted = jax.tree_util.tree_leaves_with_path(whole)
    for value, (path, one) in zip(jax.tree.leaves(found), wanted, strict=True):
        atol = TOLERANCE * np.abs(one).max(initial=0)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(value, one, rtol=0, atol=atol, err_msg=name)


def test_lengths_that_do_not_split_are_named():
    params, state = random_params(CONFIG), MODEL.init_state(CLIPS)
    codes = np.zeros((CLIPS, 36), np.int32)
    mesh = sharding.make_mesh(MeshConfig(sequence=4))
    read = sharding.on_mesh(mesh, MODEL.log_probs)
    with pytest.raises(ValueError, match=r"length 36 .* of 24, .* times 4, .*; use 24 or 48"):
        jax.eval_shape(read, params, codes, state)
