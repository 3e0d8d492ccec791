import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.training.checkpoint import Checkpointer, Progress
from poolformer_jax.training.state import init_train_state
from tests.training.tiny import OBJECTIVE, TRAIN, start_state


@pytest.fixture(scope="module")
def abstract():
    mesh = sharding.make_mesh(jax.devices()[:1])
    return sharding.abstract_state(mesh, functools.partial(init_train_state, OBJECTIVE, TRAIN))


@pytest.fixture
def checkpointer(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoints", OBJECTIVE.rank)
    yield checkpointer
    checkpointer.close()


def state_at(step):
    """A state in which every leaf differs from step to step."""
    state = start_state()
    rng = np.random.default_rng(step)

    def fill(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(rng.integers(0, 100), leaf.dtype)
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

    return dataclasses.replace(jax.tree.map(fill, state), step=jnp.asarray(step, jnp.int32))


def save(checkpointer, step, bits):
    validation = None if bits is None else {"bits_per_sample": bits}
    state, progress = state_at(step), Progress(examples_seen=8 * step, validation=validation)
    checkpointer.save(state, progress)
    checkpointer.wait()
    return state, progress


def test_everything_comes_back(checkpointer, abstract):
    state, progress = save(checkpointer, 7, 3.25)
    restored, restored_progress = checkpointer.restore(abstract)
    assert restored_progress == progress
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_latest_two_and_best_are_kept(checkpointer, tmp_path):
    for step, bits in [(1, 4.0), (2, 2.0), (3, 3.0), (4, None), (5, 5.0)]:
        save(checkpointer, step, bits)
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [2, 4, 5]
    assert (checkpointer.latest_step, checkpointer.best_step) == (5, 2)


def test_best_is_remembered_by_the_next_process(checkpointer, tmp_path):
    save(checkpointer, 1, 2.0)
    again = Checkpointer(tmp_path / "checkpoints", OBJECTIVE.rank)
    for step in (2, 3, 4):
        save(again, step, 3.0)
    again.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [1, 3, 4]


def test_not_a_number_is_never_the_best(checkpointer):
    """Neither before nor after a number: NaN is neither smaller nor larger."""
    best = []
    for step, bits in enumerate([float("nan"), 4.0, float("nan")], start=1):
        save(checkpointer, step, bits)
        best.append(checkpointer.best_step)
    assert best == [None, 2, 2]


@pytest.mark.parametrize(("weights", "item"), [("ema", "ema_params"), ("raw", "params")])
def test_parameters_alone(checkpointer, abstract, weights, item):
    first, _ = save(checkpointer, 1, 2.0)
    save(checkpointer, 2, 3.0)
    mesh = sharding.make_mesh(jax.devices()[:1])
    init = functools.partial(OBJECTIVE.model.init_params, jax.random.key(0))
    target = sharding.abstract_state(mesh, init)
    params = checkpointer.restore_params(target, step=checkpointer.best_step, weights=weights)
    jax.tree.map(np.testing.assert_array_equal, params, getattr(first, item))


def test_nothing_to_restore(checkpointer, abstract):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpointer.restore(abstract)
    assert checkpointer.best_step is None


def test_interrupted_save_is_ignored(checkpointer, abstract, tmp_path):
    state, _ = save(checkpointer, 3, None)
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    again = Checkpointer(tmp_path / "checkpoints", OBJECTIVE.rank)
    assert again.latest_step == 3
    restored, _ = again.restore(abstract)
    np.testing.assert_array_equal(restored.step, state.step)
    again.close()
