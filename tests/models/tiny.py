"""A model and clips small enough for every test."""

import numpy as np

from poolformer_jax.layers.config import RGLRUConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig

CONFIG = PoolformerConfig(
    num_codes=16,
    initial_code=8,
    width=8,
    mixer=RGLRUConfig(recurrent_width=16, num_gate_blocks=4),
    pool_factors=(2,),
    layers=(0, 1),  # One layer: what is tested is what is around it.
    platform="cpu",
)
MODEL = CONFIG.build()
LENGTH = 12


def make_batch(index, batch_size=8):
    """Clips that rise by a fixed step, so that there is something to learn."""
    rng = np.random.default_rng(index)
    start, slope = rng.integers(0, 16, (2, batch_size, 1))
    tokens = (start + slope * np.arange(LENGTH)) % 16
    return {
        "tokens": tokens.astype(np.int32),
        "lengths": rng.integers(LENGTH // 2, LENGTH + 1, batch_size).astype(np.int32),
    }
