"""Draws what is done to the clips of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from poolformer_jax.classifier.augment import Augmentation
from poolformer_jax.classifier.config import AugmentConfig


def draw_augmentation(config: AugmentConfig, key: Array, num_clips: int) -> Augmentation:
    """Draws, for each clip and change, whether it is made, and how much.

    The draws depend on the key and the clip's row alone, not on how a batch lies on devices.
    """
    keys = jax.random.split(key, 8)

    def between(key: Array, low: float, high: float) -> Array:
        return jax.random.uniform(key, (num_clips,), minval=low, maxval=high)

    amplitude = between(keys[0], config.min_amplitude, config.max_amplitude)
    longer = 1.0 + between(keys[1], -config.max_speed, config.max_speed)
    stretch = 1.0 + between(keys[2], -config.max_stretch, config.max_stretch)
    shift = jax.random.randint(keys[3], (num_clips,), -config.max_shift, config.max_shift + 1)
    return Augmentation(
        amplitude=_sometimes(config, keys[4], amplitude, otherwise=1.0),
        speed=_sometimes(config, keys[5], 1.0 / longer, otherwise=1.0),
        stretch=_sometimes(config, keys[6], stretch, otherwise=1.0),
        shift=_sometimes(config, keys[7], shift.astype(jnp.float32), otherwise=0.0),
    )


def draw_noise_share(config: AugmentConfig, key: Array, num_clips: int) -> Float[Array, " b"]:
    """Draws how much of each clip is noise, 0 to `max_noise`."""
    how_much, whether = jax.random.split(key)
    share = jax.random.uniform(how_much, (num_clips,), maxval=config.max_noise)
    return _sometimes(config, whether, share, otherwise=0.0)


def _sometimes(
    config: AugmentConfig, key: Array, drawn: Float[Array, " b"], *, otherwise: float
) -> Float[Array, " b"]:
    return jnp.where(jax.random.bernoulli(key, config.probability, drawn.shape), drawn, otherwise)
