"""A model and batches small enough for every test."""

import dataclasses
import functools

import jax
import numpy as np

from poolformer_jax import sharding
from poolformer_jax.layers.mixer_config import LRUConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.training.config import TrainConfig
from poolformer_jax.training.sequence_objective import SequenceObjective
from poolformer_jax.training.state import init_train_state

MODEL = PoolformerConfig(
    num_codes=16,
    initial_code=8,
    width=8,
    mixer=LRUConfig(recurrent_width=16, complex=False),
    pool_factors=(2,),
    layers=(0, 1),  # One layer: what is tested is the training around it.
    platform="cpu",
)
TRAIN = TrainConfig(
    num_steps=6,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=2,
    ema_decay=0.9,
    log_every=2,
    eval_every=3,
    eval_batch_size=8,
    checkpoint_every=2,
)
LENGTH = 12


@dataclasses.dataclass(frozen=True)
class Unigram:
    """p(code), whatever came before: what a training step costs least to compile with.

    Attributes:
      noisy: Whether log-probabilities are random numbers instead, drawn with the key of dropout.
    """

    noisy: bool = False
    num_codes = 16
    num_classes = 0
    chunk_multiple = 1
    parameter_rules = sharding.REPLICATED
    step_log_probs = noise = draw = draw_in_parallel = NotImplemented  # Nothing here draws.

    def init_params(self, key):
        return {"logits": jax.random.normal(key, (16,))}

    def init_state(self, batch, labels=None, *, guided=False):
        return ()

    def log_probs(self, params, codes, state, *, inputs=None, dropout_key=None):
        if self.noisy:
            return -jax.random.uniform(dropout_key, codes.shape), state
        return jax.nn.log_softmax(params["logits"])[codes], state


def make_objective(config=MODEL, evaluate=lambda params, should_stop: None, **options):
    """Trains a model; by default it is never evaluated."""
    model = config if hasattr(config, "log_probs") else config.build()
    return SequenceObjective(model, evaluate, **options)


OBJECTIVE = make_objective()


def make_batch(index, batch_size=8):
    """Clips that rise by a fixed step, so that there is something to learn."""
    rng = np.random.default_rng(index)
    start, slope = rng.integers(0, 16, (2, batch_size, 1))
    tokens = (start + slope * np.arange(LENGTH)) % 16
    return {
        "tokens": tokens.astype(np.int32),
        "lengths": rng.integers(LENGTH // 2, LENGTH + 1, batch_size).astype(np.int32),
    }


@functools.cache
def start_state():
    """The state before the first step."""
    return jax.jit(functools.partial(init_train_state, OBJECTIVE, TRAIN))()
