"""Everything a step changes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from poolformer_jax.training.config import TrainConfig
from poolformer_jax.training.objective import Objective
from poolformer_jax.training.optimizer import make_optimizer


@struct.dataclass
class TrainState:
    """State of a run; the leaves are arrays, or descriptions of arrays (shape, type, sharding).

    Attributes:
      step: Steps so far, skipped ones included.
      params: Parameters, float32.
      ema_params: Their exponential moving average, float32.
      statistics: What the network carries beside its parameters; None if it carries nothing.
      opt_state: Of the optimiser.
      skipped_steps: Steps whose update was skipped.
      consecutive_skips: Of these, the ones since the last update.
    """

    step: Any
    params: Any
    ema_params: Any
    statistics: Any
    opt_state: Any
    skipped_steps: Any
    consecutive_skips: Any


def init_train_state(objective: Objective, config: TrainConfig) -> TrainState:
    """Draws the parameters from the seed; the average starts as a copy of them."""
    params, statistics = objective.init(jax.random.key(config.seed))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        ema_params=params,
        statistics=statistics,
        opt_state=make_optimizer(config).init(params),
        skipped_steps=zero,
        consecutive_skips=zero,
    )
