"""One training step: loss, gradient, update or skip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from poolformer_jax import sharding
from poolformer_jax.training.config import TrainConfig
from poolformer_jax.training.objective import Batch, Objective
from poolformer_jax.training.optimizer import learning_rate, make_optimizer
from poolformer_jax.training.state import TrainState

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]


def make_train_step(objective: Objective, config: TrainConfig) -> TrainStep:
    """Builds the pure function (state, batch) -> (state, metrics).

    The loss is the mean over the whole batch, so accumulation in parts gives the gradient of the
    whole. Keys are fold_in(fold_in(seed, step), part), where a part may be a single clip: a resumed
    run draws the same masks, on any number of devices.

    The update is skipped, as a whole, if the loss or the gradient norm is not finite or the norm
    reaches `skip_norm`: parameters, average and optimiser stay as they were.
    """
    optimizer = make_optimizer(config)
    root_key = jax.random.key(config.seed)
    value_and_grad = jax.value_and_grad(objective.loss, has_aux=True)

    def accumulate(state: TrainState, batch: Batch, key: Array, count: Array) -> tuple[Any, Any]:
        """Returns ((loss, sums, gradient), statistics)."""
        shared = state.params, key, count
        if config.grad_accum_steps is None:
            return sharding.add_over_data(add_clips, dict(batch), shared), None
        return run_parts(batch, shared, state.statistics, config.grad_accum_steps)

    def add_clips(batch: Batch, shared: Any, part_of_data: Any) -> Any:
        parts = jax.tree.leaves(batch)[0].shape[0] // sharding.num_fsdp_parts()
        return run_parts(batch, shared, None, parts, first=part_of_data * parts)[0]

    def run_part(shared: Any, statistics: Any, index: Any, part: Batch) -> tuple[Any, Any]:
        params, key, count = shared
        (loss, (statistics, sums)), grads = value_and_grad(
            params, statistics, part, jax.random.fold_in(key, index), count
        )
        return (loss, sums, grads), statistics

    def run_parts(
        batch: Batch, shared: Any, statistics: Any, parts: int, *, first: Any = 0
    ) -> tuple[Any, Any]:
        if parts == 1:
            return run_part(shared, statistics, first, batch)

        def split(x: Array) -> Array:
            # Every device's rows are spread over all parts, so that no row changes its device.
            return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

        def add_part(carry: Any, inputs: tuple[Array, Batch]) -> tuple[Any, None]:
            total, statistics = carry
            values, statistics = run_part(shared, statistics, *inputs)
            return (jax.tree.map(jnp.add, total, values), statistics), None

        inputs = first + jnp.arange(parts), jax.tree.map(split, dict(batch))
        example = jax.tree.map(lambda x: x[0], inputs)
        values, _ = jax.eval_shape(run_part, shared, statistics, *example)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), values)
        return jax.lax.scan(add_part, (zeros, statistics), inputs)[0]

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(root_key, state.step)
        count = objective.count(batch)
        (loss, sums, grads), statistics = accumulate(state, batch, key, count)
        grad_norm = optax.tree.norm(grads)
        ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        if config.skip_norm is not None:
            ok &= grad_norm < config.skip_norm

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = optax.incremental_update(params, state.ema_params, 1.0 - config.ema_decay)

        def keep_if_skipped(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)

        skipped = (~ok).astype(jnp.int32)
        num_updates = state.step - state.skipped_steps
        metrics = objective.metrics(loss, sums) | {
            "count": count.astype(jnp.int32),
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(config, state.opt_state, num_updates),
            "skipped_steps": state.skipped_steps + skipped,
            "consecutive_skips": (state.consecutive_skips + 1) * skipped,
        }
        state = TrainState(
            step=state.step + 1,
            params=keep_if_skipped(params, state.params),
            ema_params=keep_if_skipped(ema_params, state.ema_params),
            statistics=keep_if_skipped(statistics, state.statistics),
            opt_state=keep_if_skipped(opt_state, state.opt_state),
            skipped_steps=metrics["skipped_steps"],
            consecutive_skips=metrics["consecutive_skips"],
        )
        return state, metrics

    return train_step
