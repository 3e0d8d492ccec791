"""Configurations and parameters drawn at random, small enough to compile by the dozen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from poolformer_jax.layers.mixer_config import LRUConfig, RGLRUConfig

BATCH = 2

EXAMPLES = settings(
    deadline=None,
    derandomize=True,
    database=None,
    # The fixture only sets how XLA compiles.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def random_mixers(draw):
    """Configurations of all mixers."""
    blocks = draw(st.integers(1, 2))
    options = {"recurrent_width": 4 * blocks, "complex": draw(st.booleans())}
    if draw(st.booleans()):
        return LRUConfig(**options)
    exponent = draw(st.sampled_from([8.0, 2.0]))
    return RGLRUConfig(**options, num_gate_blocks=blocks, decay_exponent=exponent)


@st.composite
def random_options(draw):
    """Arguments of `PoolformerConfig`."""
    levels = draw(st.integers(0, 3))
    width = draw(st.sampled_from([4, 6]))
    layers = draw(st.tuples(*[st.integers(0, 2)] * (levels + 1)))
    # Without a norm every gated block squares what it is given, and soon overflows.
    norms = ["layer_norm", "rms_norm", "none"] if sum(layers) <= 1 else ["layer_norm", "rms_norm"]
    return {
        "num_codes": 16,
        "initial_code": draw(st.integers(0, 15)),
        "width": width,
        "width_growth": draw(st.integers(1, 2)),
        "mixer": draw(random_mixers()),
        "mlp_expansion": draw(st.integers(1, 2)),
        "pool_factors": draw(st.tuples(*[st.integers(2, 3)] * levels)),
        "layers": layers,
        "pool_groups": draw(st.sampled_from([None, 1, 2, width])),
        "unet": draw(st.booleans()),
        "skip": draw(st.sampled_from(["short", "long"])),
        "embedding": draw(st.sampled_from(["sinusoidal", "table", "mlp"])),
        "norm": draw(st.sampled_from(norms)),
        "gating": draw(st.booleans()),
        "temporal_convolution": draw(st.booleans()),
        "num_classes": draw(st.sampled_from([0, 3])),
        "scan": "sequential",
        "remat": draw(st.sampled_from(["none", "block", "half_block", "elementwise"])),
    }


@functools.cache
def random_params(config, seed=0):
    """Parameters of about their initial size, but no bias is 0 and no scale is 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape)
        match path[-1].key:
            case "kernel":
                return jnp.float32(noise / np.sqrt(leaf.shape[-2]))
            case "scale":
                return jnp.float32(1 + 0.3 * noise)
            case "decay":
                return jnp.float32(-2 + noise)
            case "theta":
                return jnp.float32(np.abs(noise))
            case _:
                return jnp.float32(0.3 * noise)

    shapes = jax.eval_shape(config.build().init_params, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_labels(config):
    """With and without a label; None for a model that has none."""
    return jnp.array([1, config.num_classes]) if config.num_classes else None


def random_codes(config, steps, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(config.num_codes, size=(BATCH, steps)), jnp.int32)
