"""Groups of parameters with a learning rate and a weight decay of their own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.config_checks import config_values, make_config
from poolformer_jax.experiment import default_config, make_experiment
from poolformer_jax.experiment.configuration import experiment_values
from poolformer_jax.training.config import ParameterGroup, TrainConfig
from poolformer_jax.training.optimizer import make_optimizer

PARAMS = {"a": jnp.array([1.0, -2.0]), "b": {"bias": jnp.array([3.0]), "A_real": jnp.array([0.5])}}
GRADS = jax.tree.map(lambda p: 0.25 * p + 1.0, PARAMS)
GROUPS = (
    ParameterGroup(pattern="A_real$", learning_rate=0.01, weight_decay=0.0),
    ParameterGroup(pattern="(bias|A_real)$", weight_decay=0.5),
)
TRAIN = TrainConfig(
    learning_rate=0.1, warmup_steps=4, weight_decay=0.2, clip_norm=None, parameter_groups=GROUPS
)


def updates(config, steps):
    optimizer = make_optimizer(config)
    state, params = optimizer.init(PARAMS), PARAMS
    for _ in range(steps):
        update, state = optimizer.update(GRADS, state, params)
        params = jax.tree.map(jnp.add, params, update)
    return params


def alone(name, rate, decay, steps, optimizer):
    """The parameters of one group, as a recipe of their own trains all."""
    config = dataclasses.replace(
        TRAIN, learning_rate=rate, weight_decay=decay, parameter_groups=(), optimizer=optimizer
    )
    params = updates(config, steps)
    return params[name] if name == "a" else params["b"][name]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_each_group_is_trained_as_if_its_recipe_were_that_of_all(optimizer):
    """Through the warm-up, which scales all rates; the first group that fits counts."""
    ours = updates(dataclasses.replace(TRAIN, optimizer=optimizer), 6)
    for name, rate, decay in (("a", 0.1, 0.2), ("bias", 0.1, 0.5), ("A_real", 0.01, 0.0)):
        found = ours[name] if name == "a" else ours["b"][name]
        np.testing.assert_allclose(found, alone(name, rate, decay, 6, optimizer), rtol=1e-6)


def test_a_rate_of_zero_freezes():
    frozen = ParameterGroup(pattern="^a$", learning_rate=0.0)
    ours = updates(dataclasses.replace(TRAIN, parameter_groups=(frozen,)), 3)
    np.testing.assert_array_equal(ours["a"], PARAMS["a"])
    assert np.all(ours["b"]["bias"] != PARAMS["b"]["bias"])


@pytest.mark.parametrize("pattern", ["C_real", "A_real"])
def test_a_group_without_parameters_is_named(pattern):
    groups = (*GROUPS, ParameterGroup(pattern=pattern))
    optimizer = make_optimizer(dataclasses.replace(TRAIN, parameter_groups=groups))
    with pytest.raises(ValueError, match=f"no parameter is in the group of '{pattern}'"):
        jax.eval_shape(optimizer.init, PARAMS)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"pattern": "(", "learning_rate": 1.0}, r"\[0\]: pattern '\(' is not a regular expr"),
        ({"pattern": "a", "learning_rate": -1}, r"\[0\]: learning_rate -1.0 must be at least 0"),
        ({"pattern": "a", "lr": 1.0}, r"unknown field \['lr'\] in train.parameter_groups\[0\]"),
        (3, r"parameter_groups is \(3,\); it must be a tuple of ParameterGroup"),
    ],
)
def test_values_that_cannot_work_are_named(group, message):
    with pytest.raises(ValueError, match=message):
        make_config(TrainConfig, {"parameter_groups": [group]}, name="train")


def test_files_and_flags_give_groups_as_mappings():
    config = default_config()
    config.train.parameter_groups = [{"pattern": "bias$", "weight_decay": 0}]
    experiment = make_experiment(config)
    expected = (ParameterGroup(pattern="bias$", weight_decay=0.0),)
    assert experiment.train.parameter_groups == expected
    values = experiment_values(experiment)
    assert values["train"]["parameter_groups"] == (config_values(expected[0]),)
    assert make_experiment(values) == experiment
