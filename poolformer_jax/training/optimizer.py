"""The optimiser: clipping by the global norm, AdamW, Muon or SGD, and the learning rate."""

from __future__ import annotations

import re
from typing import Any, assert_never

import jax
import jax.numpy as jnp
import optax
from jax import Array

from poolformer_jax.training.config import ParameterGroup, TrainConfig

_MATRIX = r"/layers/(?!.*convolution).*/kernel$"
"""Paths of what Muon updates: a depthwise convolution is a kernel, and no matrix."""


def make_schedule(config: TrainConfig) -> optax.Schedule:
    """Learning rate by the number of updates before: a linear warm-up, then as configured.

    The first update already has learning_rate / warmup_steps, not 0.
    """
    rate, warmup = config.learning_rate, config.warmup_steps
    match config.schedule:
        case "constant" | "plateau":
            main = optax.constant_schedule(rate)
        case "cosine":
            main = optax.cosine_decay_schedule(rate, max(1, config.num_steps - warmup))
        case _:
            assert_never(config.schedule)
    if not warmup:
        return main
    return optax.join_schedules(
        [optax.linear_schedule(rate / warmup, rate, warmup - 1), main], [warmup]
    )


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Weight decay acts on all parameters, or as their groups say.

    In SGD it is part of the gradient, as in PyTorch's.

    Raises:
      ValueError: On `init`, if a group has no parameters, or Muon no matrix.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101; values from Gallo Fernandez 2025. Muon:
    Jordan et al. 2024, kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982.
    """
    parts = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    schedule = make_schedule(config)
    match config.optimizer:
        case "adamw" | "muon":
            adam = optax.scale_by_adam(config.beta1, config.beta2)
            parts.append(
                optax.chain(
                    _scale_by_muon(config, adam) if config.optimizer == "muon" else adam,
                    _decay_weights(config),
                    optax.scale_by_learning_rate(schedule),
                )
            )
        case "sgd":
            parts += [
                _decay_weights(config),
                optax.sgd(schedule, momentum=config.momentum),
            ]
        case _:
            assert_never(config.optimizer)
    if config.parameter_groups:
        parts.append(_scale_rates(config))
    if config.schedule == "plateau":
        parts.append(_scale_by_plateau(config))
    return optax.chain(*parts)


def after_evaluation(config: TrainConfig, opt_state: Any, loss: float) -> Any:
    """The optimiser's state after an evaluation, which may lower the rate of a plateau."""
    if config.schedule != "plateau":
        return opt_state
    *others, plateau = opt_state
    _, plateau = _plateau(config).update({}, plateau, value=loss)
    return (*others, plateau)


def learning_rate(config: TrainConfig, opt_state: Any, num_updates: Array) -> Array:
    """Rate of the next update."""
    rate = jnp.asarray(make_schedule(config)(num_updates))
    return rate * opt_state[-1].scale if config.schedule == "plateau" else rate


def _scale_by_muon(
    config: TrainConfig, adam: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Orthogonalised Nesterov momentum for the weight matrices of layers, Adam for all else.

    A stack of layers has its matrices, and a block-diagonal gate its blocks, in the last two axes.
    The root mean square of an update is 0.2, about that of Adam, so that one learning rate serves
    both.
    """

    def kinds(params: Any) -> Any:
        found = jax.tree_util.tree_map_with_path(
            lambda path, _: "muon" if re.search(_MATRIX, _name(path)) else "adam", params
        )
        if "muon" not in jax.tree.leaves(found):
            raise ValueError(
                "train.optimizer 'muon' is for the matrices of layers, and this model has none; "
                "use 'adamw'"
            )
        return found

    def axes(updates: Any) -> Any:
        of_matrix = optax.contrib.MuonDimensionNumbers
        return jax.tree.map(lambda update: of_matrix(update.ndim - 2, update.ndim - 1), updates)

    muon = optax.chain(
        optax.contrib.scale_by_muon(beta=config.momentum, weight_dimension_numbers=axes),
        optax.stateless(
            lambda updates, params=None: jax.tree.map(
                lambda update: 0.2 * max(update.shape[-2:]) ** 0.5 * update, updates
            )
        ),
    )
    return optax.partition({"muon": muon, "adam": adam}, kinds)


def _decay_weights(config: TrainConfig) -> optax.GradientTransformation:
    """Adds the decay of each parameter's group times the parameter."""

    def init(params: Any) -> Any:
        _check_groups(config, params)
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        def add(path: Any, update: Array, param: Array) -> Array:
            group = _group_of(config, path)
            decay = config.weight_decay if group is None else group.weight_decay
            return update + (config.weight_decay if decay is None else decay) * param

        return jax.tree_util.tree_map_with_path(add, updates, params), state

    return optax.GradientTransformation(init, update)


def _scale_rates(config: TrainConfig) -> optax.GradientTransformation:
    """Scales the updates of each group by its learning rate over the recipe's."""

    def scale(path: Any, update: Array) -> Array:
        group = _group_of(config, path)
        if group is None or group.learning_rate is None:
            return update
        return group.learning_rate / config.learning_rate * update

    return optax.stateless(
        lambda updates, params=None: jax.tree_util.tree_map_with_path(scale, updates)
    )


def _group_of(config: TrainConfig, path: Any) -> ParameterGroup | None:
    name = _name(path)
    return next((one for one in config.parameter_groups if re.search(one.pattern, name)), None)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _check_groups(config: TrainConfig, params: Any) -> None:
    used = {_group_of(config, path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    for group in config.parameter_groups:
        if group not in used:
            raise ValueError(
                f"train.parameter_groups: no parameter is in the group of {group.pattern!r} (or "
                "earlier groups have them all); its pattern is searched for in paths such as "
                "backbone/post/layers/mlp/merge/projection/kernel"
            )


def _plateau(config: TrainConfig) -> optax.GradientTransformationExtraArgs:
    # Optax lowers the rate at the last of `patience` evaluations; PyTorch, whose recipe this is,
    # at the one after.
    return optax.contrib.reduce_on_plateau(
        factor=config.plateau_factor, patience=config.plateau_patience + 1, rtol=1e-4
    )


def _scale_by_plateau(config: TrainConfig) -> optax.GradientTransformation:
    """Scales updates by the plateau's state, which `after_evaluation` alone changes."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u: state.scale * u, updates), state

    return optax.GradientTransformation(_plateau(config).init, update)
