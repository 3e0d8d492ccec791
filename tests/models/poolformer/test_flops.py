"""FLOPs of a sample, counted from the configuration: beside the parameters, and beside XLA."""

import math

import jax
import jax.numpy as jnp
import pytest

from poolformer_jax.aot.report import read_work
from poolformer_jax.layers.mixer_config import LRUConfig, RGLRUConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig

SMALL = PoolformerConfig(
    width=8,
    mixer=LRUConfig(recurrent_width=16),
    pool_factors=(3,),
    layers=(1, 2),
    platform="cpu",
)
VARIANTS = [
    SMALL,
    PoolformerConfig(
        width=8,
        width_growth=2,
        pool_groups=2,
        mixer=RGLRUConfig(recurrent_width=16, num_gate_blocks=4),
        mlp_expansion=3,
        temporal_convolution=True,
        embedding="mlp",
        pool_factors=(2, 5),
        layers=(2, 1, 1),
    ),
    PoolformerConfig(
        width=8,
        mixer=RGLRUConfig(recurrent_width=12, num_gate_blocks=3, complex=False),
        gating=False,
        unet=False,
        pool_factors=(4,),
        layers=(2, 0),
    ),
]


def multiply_adds(config: PoolformerConfig, *, pools: bool = True) -> float:
    """Of a sample: each entry of a matrix is met once a step of its level."""
    params = jax.eval_shape(config.build().init_params, jax.random.key(0))
    total = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [part.key for part in path]
        is_pool = names[-2] in ("down_pool", "up_pool")
        if names[-1] == "kernel" and (pools or not is_pool):
            # A pool's taps together meet one step of the level below.
            level = names.count("inner") + is_pool
            total += leaf.size / math.prod(config.pool_factors[:level])
    return total


@pytest.mark.parametrize("config", VARIANTS)
def test_flops_are_two_for_each_entry_of_a_matrix_at_its_rate(config):
    # Sums of a few fractions in float64.
    assert config.flops_per_sample == pytest.approx(2 * multiply_adds(config), rel=1e-12)


@pytest.mark.parametrize(
    "times", [1, pytest.param(3, marks=pytest.mark.nightly)], ids=["forward", "and backward"]
)
def test_flops_are_those_of_the_compiled_program(times):
    """Of products alone: XLA adds up the taps of pools of one group a channel."""
    model, length = SMALL.build(), 4 * SMALL.chunk_multiple
    params = jax.eval_shape(model.init_params, jax.random.key(0))
    codes = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def loss(params, codes):
        return jnp.sum(model.log_probs(params, codes, model.init_state(1))[0])

    taps = 2 * (multiply_adds(SMALL) - multiply_adds(SMALL, pools=False))
    expected = length * (SMALL.flops_per_sample - taps)
    function = loss if times == 1 else jax.grad(loss)
    text = jax.jit(function).lower(params, codes).compile().as_text()
    assert read_work(text).flops == pytest.approx(times * expected, rel=1e-12)


def test_flops_of_the_baseline_explain_its_measured_training_step():
    """0.374 TFLOP on a CPU, one clip of 16,000 samples, which recomputes half blocks.

    There gates are dense products of the layer's input, with a matrix that is multiplied from two
    in each of 36 layers, and of a half block all is recomputed but its last product.
    """
    config = PoolformerConfig()
    d, e = config.width, config.mixer.recurrent_width
    # At the rate of the samples; all but the centre's are before and after a pool.
    layers = 2 * 4 * (1 + 1 / 2 + 1 / 8 + 1 / 32) + 4 / 160
    dense_gates = 2 * d * e - 2 * 2 * e * (e // 2) // config.mixer.num_gate_blocks
    forward = config.flops_per_sample + layers * dense_gates
    again = layers * (config.flops_per_step(d) + dense_gates - 2 * (d * d + 2 * d * d))
    matrices = 36 * 4 * 2 * d * e**2
    assert 16_000 * (3 * forward + again) + matrices == pytest.approx(0.374e12, abs=0.0005e12)
    # Beside 6 N for each sample, what a model without pools would need.
    assert 6 * 7_272_704 / (3 * config.flops_per_sample) == pytest.approx(2.72, abs=0.01)
