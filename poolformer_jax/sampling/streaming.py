"""Cached multi-rate sampler: each level's state is kept, the inner levels run only when due."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from poolformer_jax.models.config import PoolformerConfig
from poolformer_jax.models.poolformer import Poolformer, PoolformerState, init_state, observe

# Samples per compiled call; between calls the caller learns of the progress.
CHUNK = 800


def sample(
    config: PoolformerConfig,
    params: Any,
    key: Array,
    *,
    num_clips: int,
    num_samples: int,
    temperature: float = 1.0,
    on_progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Draws clips from the model, from silence on.

    Args:
      config: Architecture.
      params: Parameters, usually the averaged ones.
      key: Randomness; clip and time are folded in, so a longer draw starts like a shorter one.
      num_clips: Clips, drawn side by side.
      num_samples: Samples per clip.
      temperature: Divides the logits; 0 takes the likeliest code.
      on_progress: Called with the number of samples per clip so far.

    Returns:
      Codes [num_clips, num_samples], int32.

    Raises:
      ValueError: If a number is out of range.
    """
    if num_clips < 1 or num_samples < 1:
        raise ValueError(f"num_clips {num_clips} and num_samples {num_samples} must be at least 1")
    if not temperature >= 0.0:
        raise ValueError(f"temperature {temperature} must not be negative; 1 is the model's own")
    state = init_state(config, num_clips)
    draw = _compile_chunk(config, temperature)
    codes = []
    for start in range(0, num_samples, CHUNK):
        state, chunk = draw(params, key, state)
        codes.append(np.asarray(chunk))
        if on_progress is not None:
            on_progress(min(start + CHUNK, num_samples))
    return np.concatenate(codes, axis=1)[:, :num_samples]


@functools.lru_cache(maxsize=4)
def _compile_chunk(config: PoolformerConfig, temperature: float) -> Callable:
    model = Poolformer(config)

    def draw_one(params: Any, key: Array, state: PoolformerState) -> tuple[PoolformerState, Array]:
        key = jax.random.fold_in(key, state.time)
        outputs: Any = model.apply({"params": params}, state, method="predict")
        logits, state = outputs
        if temperature == 0.0:
            codes = jnp.argmax(logits, axis=-1)
        else:
            clip_keys = jax.vmap(functools.partial(jax.random.fold_in, key))(
                jnp.arange(logits.shape[0])
            )
            codes = jax.vmap(jax.random.categorical)(clip_keys, logits / temperature)
        codes = codes.astype(jnp.int32)
        return observe(state, codes), codes

    @jax.jit
    def draw_chunk(params: Any, key: Array, state: PoolformerState):
        def body(carry: PoolformerState, _):
            return draw_one(params, key, carry)

        state, codes = jax.lax.scan(body, state, length=CHUNK)
        return state, codes.T

    return draw_chunk
