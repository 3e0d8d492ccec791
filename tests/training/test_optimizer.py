"""Muon, and groups of parameters with a learning rate and a weight decay of their own."""

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

LAYERS = {"layers": {"mixer": {"kernel": jnp.array([[[1.0, 2.0], [0.0, 1.0]]])}}}
PARAMS = {
    "a": jnp.array([1.0, -2.0]),
    "b": {"bias": jnp.array([3.0]), "A_real": jnp.array([0.5]), **LAYERS},
}
GRADS = jax.tree.map(lambda p: 0.25 * p + 1.0, PARAMS)
GROUPS = (
    ParameterGroup(pattern="A_real$", learning_rate=0.01, weight_decay=0.0),
    ParameterGroup(pattern="(bias|A_real)$", weight_decay=0.5),
    ParameterGroup(pattern="kernel$", learning_rate=0.05, weight_decay=0.1),
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
    return leaf(updates(config, steps), name)


def leaf(params, name):
    return jax.tree.leaves(params if name == "a" else params["b"][name])[0]


@pytest.mark.parametrize(
    "optimizer", ["adamw", "sgd", pytest.param("muon", marks=pytest.mark.slow)]
)
def test_each_group_is_trained_as_if_its_recipe_were_that_of_all(optimizer):
    """Through the warm-up, which scales all rates; the first group that fits counts."""
    ours = updates(dataclasses.replace(TRAIN, optimizer=optimizer), 6)
    for name, rate, decay in (
        ("a", 0.1, 0.2),
        ("bias", 0.1, 0.5),
        ("A_real", 0.01, 0.0),
        ("layers", 0.05, 0.1),
    ):
        expected = alone(name, rate, decay, 6, optimizer)
        np.testing.assert_allclose(leaf(ours, name), expected, rtol=1e-6)


def made_orthogonal(matrix):
    """Five steps of the quintic Newton-Schulz iteration."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        squared = x @ x.T
        x = 3.4445 * x + (-4.775 * squared + 2.0315 * squared @ squared) @ x
    return x


def test_muon_takes_the_matrices_of_layers_and_adam_the_rest():
    shapes = {
        "stack/layers/mixer/gate/kernel": (2, 3, 6, 4),  # Two layers, three blocks.
        "stack/layers/mlp/kernel": (2, 4, 5),
        "stack/layers/mlp/bias": (2, 5),
        "stack/layers/mixer/convolution/kernel": (2, 4, 3),
        "pool/kernel": (4, 1, 3),
        "head/kernel": (3, 7),
    }
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    start = params
    config = dataclasses.replace(TRAIN, parameter_groups=(), momentum=0.95)
    muon, adam = (
        make_optimizer(dataclasses.replace(config, optimizer=name)) for name in ("muon", "adamw")
    )
    tree = jax.tree.map(jnp.asarray, params)
    state, adams, means = muon.init(tree), adam.init(tree), dict.fromkeys(shapes, 0.0)
    for step in range(1, 4):
        rate, grads = 0.1 * step / 4, {name: rng.normal(size=shapes[name]) for name in shapes}
        updates, state = muon.update(grads, state, tree)
        others, adams = adam.update(grads, adams, tree)
        for name, update in updates.items():
            mean = means[name] = 0.95 * means[name] + 0.05 * grads[name]
            if not name.endswith(("gate/kernel", "mlp/kernel")):
                np.testing.assert_array_equal(update, others[name], err_msg=name)
                continue
            mean = 0.95 * mean / (1 - 0.95 ** (step + 1)) + 0.05 * grads[name] / (1 - 0.95**step)
            for index in np.ndindex(update.shape[:-2]):
                size = 0.2 * max(update.shape[-2:]) ** 0.5
                expected = size * made_orthogonal(mean[index]) + 0.2 * start[name][index]
                np.testing.assert_allclose(update[index], -rate * expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"'muon' is for the matrices of layers, and .* has none"):
        muon.init({"logits": jnp.zeros((3, 3))})


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
