import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from poolformer_jax import sharding


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(jax.devices()[:8])


@pytest.mark.parametrize(
    ("size", "parts", "message"),
    [
        (12, 1, "train.batch_size 12 .* 8 devices; .* such as 16"),
        (8, 2, "train.batch_size 8 .* 8 devices x 2 accumulation steps; .* such as 16"),
    ],
)
def test_batches_that_do_not_split_are_named(mesh, size, parts, message):
    with pytest.raises(ValueError, match=message):
        sharding.check_batch_size("train.batch_size", size, mesh, parts=parts)


def test_batches_that_split_pass(mesh):
    sharding.check_batch_size("train.batch_size", 32, mesh, parts=4)


TREE = {"a": {"kernel": np.arange(48.0).reshape(16, 3)}, "step": np.int32(7)}
RULES = ((r"kernel", P(sharding.DATA_AXIS)), (r".*", P()))


def test_rules_place_every_leaf(mesh):
    placed = sharding.init_sharded(mesh, lambda: jax.tree.map(jnp.asarray, TREE), RULES)
    assert placed["a"]["kernel"].addressable_shards[3].data.shape == (2, 3)
    assert placed["step"].sharding.is_fully_replicated
    replicated = sharding.state_sharding(mesh, TREE)
    assert all(s.is_fully_replicated for s in jax.tree.leaves(replicated))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (((r".*", P(sharding.DATA_AXIS)),), r"rule '.*' has 1 axes.*step.* has shape \(\)"),
        (((r"kernel", P()),), r"no sharding rule matches .*step"),
    ],
)
def test_a_rule_that_does_not_fit_is_an_error(mesh, rules, message):
    with pytest.raises(ValueError, match=message):
        sharding.state_sharding(mesh, TREE, rules)


def test_sharded_arrays_are_copied_whole_to_another_mesh(mesh):
    placed = sharding.init_sharded(mesh, lambda: jax.tree.map(jnp.asarray, TREE), RULES)
    copied = sharding.copy_to(sharding.make_mesh(jax.devices()[:1]), placed)
    jax.tree.map(np.testing.assert_array_equal, copied, TREE)
    assert len(copied["a"]["kernel"].devices()) == 1


def test_every_device_computes_its_own_rows_and_gradients_are_summed(mesh):
    rows, shared = np.arange(32.0).reshape(16, 2), np.float64([[1.0], [3.0]])
    seen = []

    def loss(shared, rows):
        def multiply(rows, shared):
            seen.append(rows.shape)
            return jnp.sin(rows @ shared)

        return jnp.sum(sharding.map_batch(multiply, rows, shared))

    compiled = jax.jit(sharding.on_mesh(mesh, jax.value_and_grad(loss)))
    value, gradient = compiled(*sharding.put_along(mesh, (shared, rows), [-1, 0]))
    assert set(seen) == {(2, 2)}
    phase = rows @ shared
    np.testing.assert_allclose(value, np.sin(phase).sum(), rtol=1e-5)  # Float32 sums.
    np.testing.assert_allclose(gradient, rows.T @ np.cos(phase), rtol=1e-5)
    seen.clear()
    jax.jit(loss)(shared, rows)
    assert seen == [(16, 2)]
