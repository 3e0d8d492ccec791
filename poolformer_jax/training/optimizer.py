"""AdamW with linear warm-up and clipping by the global norm."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from poolformer_jax.training.config import TrainConfig


def make_schedule(config: TrainConfig) -> optax.Schedule:
    """Learning rate by the number of updates before: linear to the full rate, then constant.

    The first update already has learning_rate / warmup_steps, not 0.
    """

    def schedule(count):
        fraction = (count + 1) / max(1, config.warmup_steps)
        return config.learning_rate * jnp.minimum(1.0, fraction)

    return schedule


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Clips by the global norm, then AdamW; weight decay acts on all parameters.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101; values from Gallo Fernandez 2025.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config),
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
        ),
    )
