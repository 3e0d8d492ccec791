"""One training step: loss, gradient, update or skip."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.poolformer.model import Poolformer, init_state
from poolformer_jax.ops.categorical import excess_bits
from poolformer_jax.training.config import TrainConfig
from poolformer_jax.training.optimizer import make_optimizer, make_schedule
from poolformer_jax.training.state import TrainState

Batch = dict[str, Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]


def make_train_step(model_config: PoolformerConfig, train_config: TrainConfig) -> TrainStep:
    """Builds the pure function (state, batch) -> (state, metrics).

    A batch has `tokens` [b, t] and `lengths` [b], for a model with classes `labels` [b] too. The
    loss is in bits per sample over all samples of the batch that count, so accumulation in parts
    gives the gradient of the whole.

    Dropout keys are fold_in(fold_in(seed, step), part): a resumed run draws the same masks. Labels
    are withheld at random as in Ho & Salimans 2022, arXiv:2207.12598, so that one model learns both
    distributions that guidance needs.

    The update is skipped, as a whole, if the loss or the gradient norm is not finite or the norm
    reaches `skip_norm`: parameters, average and optimiser stay as they were.
    """
    model = Poolformer(model_config)
    optimizer = make_optimizer(train_config)
    schedule = make_schedule(train_config)
    root_key = jax.random.key(train_config.seed)

    def loss_fn(params: Any, batch: Batch, key: Array, num_samples: Array) -> Array:
        rngs = {"dropout": key} if model_config.dropout else None
        labels = None
        if model_config.num_classes:
            withheld = jax.random.bernoulli(
                jax.random.fold_in(key, 1), train_config.label_dropout, batch["labels"].shape
            )
            labels = jnp.where(withheld, model_config.num_classes, batch["labels"])
        state = init_state(model_config, batch["tokens"].shape[0], labels)
        logits, _ = model.apply({"params": params}, batch["tokens"], state, rngs=rngs)
        excess = excess_bits(logits, batch["tokens"], lengths=batch["lengths"])
        return jnp.sum(excess) / num_samples

    def accumulate(params: Any, batch: Batch, key: Array) -> tuple[Array, Any]:
        num_samples = jnp.maximum(jnp.sum(batch["lengths"]), 1).astype(jnp.float32)
        value_and_grad = jax.value_and_grad(loss_fn)
        parts = train_config.grad_accum_steps
        if parts == 1:
            return value_and_grad(params, batch, jax.random.fold_in(key, 0), num_samples)

        def split(x: Array) -> Array:
            # Every device's rows are spread over all parts, so that no row changes its device.
            return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

        def add_part(total: Any, inputs: tuple[Array, Batch]) -> tuple[Any, None]:
            index, part = inputs
            key_of_part = jax.random.fold_in(key, index)
            return jax.tree.map(
                jnp.add, total, value_and_grad(params, part, key_of_part, num_samples)
            ), None

        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        inputs = (jnp.arange(parts), jax.tree.map(split, batch))
        return jax.lax.scan(add_part, zeros, inputs)[0]

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(root_key, state.step)
        loss, grads = accumulate(state.params, batch, key)
        loss = loss + math.log2(model_config.num_codes)  # What `excess_bits` left out.
        grad_norm = optax.tree.norm(grads)
        ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & (grad_norm < train_config.skip_norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = optax.incremental_update(
            params, state.ema_params, 1.0 - train_config.ema_decay
        )

        def keep_if_skipped(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)

        skipped = (~ok).astype(jnp.int32)
        metrics = {
            "bits_per_sample": loss,
            "grad_norm": grad_norm,
            "learning_rate": schedule(state.step - state.skipped_steps),
            "skipped_steps": state.skipped_steps + skipped,
            "consecutive_skips": (state.consecutive_skips + 1) * skipped,
        }
        state = TrainState(
            step=state.step + 1,
            params=keep_if_skipped(params, state.params),
            ema_params=keep_if_skipped(ema_params, state.ema_params),
            opt_state=keep_if_skipped(opt_state, state.opt_state),
            skipped_steps=metrics["skipped_steps"],
            consecutive_skips=metrics["consecutive_skips"],
        )
        return state, metrics

    return train_step
