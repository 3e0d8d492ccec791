"""One device and eight train alike, with parameters replicated or really sharded."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from poolformer_jax import sharding
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.step import make_train_step
from tests.training.tiny import MODEL, TRAIN, make_batch, make_objective

OBJECTIVE = make_objective(dataclasses.replace(MODEL, dropout=0.2))
CONFIG = dataclasses.replace(TRAIN, batch_size=16, grad_accum_steps=2)
SHARDED = (
    (r"head.*kernel", P(sharding.DATA_AXIS)),
    (r"input_projection.*kernel", P(None, None, sharding.DATA_AXIS)),
    *sharding.PARAMETER_RULES,
)


def train_on(num_devices, rules=sharding.PARAMETER_RULES):
    mesh = sharding.make_mesh(jax.devices()[:num_devices])
    init = functools.partial(init_train_state, OBJECTIVE, CONFIG)
    abstract = sharding.abstract_state(mesh, init, rules)
    step = sharding.jit_train_step(make_train_step(OBJECTIVE, CONFIG), mesh, abstract)
    state, losses = sharding.init_sharded(mesh, init, rules), []
    for index in range(5):
        batch = sharding.put_batch(mesh, make_batch(index, CONFIG.batch_size))
        assert len(batch["tokens"].addressable_shards) == num_devices
        state, metrics = step(state, batch)
        losses.append(float(metrics["bits_per_sample"]))
    if rules is SHARDED:
        kernel = state.params["head"]["projection"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // num_devices
    return np.array(losses), jax.tree.map(np.asarray, state.params)


def norm(tree):
    """Euclidean norm of all leaves together."""
    return np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree)))


@pytest.fixture(scope="module")
def one():
    return train_on(1)


@pytest.mark.parametrize("rules", [sharding.PARAMETER_RULES, SHARDED], ids=["split", "sharded"])
def test_eight_devices_train_like_one(one, rules):
    losses, params = train_on(8, rules)
    assert len(set(losses.tolist())) == 5
    np.testing.assert_allclose(losses, one[0], rtol=1e-6)
    difference = norm(jax.tree.map(np.subtract, params, one[1]))
    assert difference <= 1e-6 * norm(one[1])
    # How far the parameters moved, not how large they are: other dropout masks on other devices,
    # or a mean of means, would show as 0.01 and more. (Adam amplifies small gradients' rounding.)
    start = init_train_state(OBJECTIVE, CONFIG).params
    assert difference <= 1e-4 * norm(jax.tree.map(np.subtract, one[1], start))
