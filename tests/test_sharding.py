import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from poolformer_jax import sharding
from poolformer_jax.mesh_config import MeshConfig


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(devices=jax.devices()[:8])


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


@pytest.mark.parametrize(
    ("sizes", "devices", "resolved"),
    [
        ({}, 8, (8, 1, 1)),
        ({"sequence": 4}, 8, (2, 1, 4)),
        ({"data": 2, "fsdp": -1}, 8, (2, 4, 1)),
        ({"data": 1, "fsdp": 2, "sequence": 2}, 4, (1, 2, 2)),
    ],
)
def test_axes_take_the_devices_that_are_left(sizes, devices, resolved):
    config = MeshConfig(**sizes)
    assert config.sizes(devices) == resolved
    made = sharding.make_mesh(config, devices=jax.devices()[:devices])
    assert tuple(made.shape.values()) == resolved
    # Neighbours along time are neighbours.
    assert [device.id for device in made.devices[0, 0]] == list(range(resolved[2]))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"fsdp": 0}, "fsdp 0 must be at least 1, or -1 for"),
        ({"data": -1, "fsdp": -1}, "data -1 x fsdp -1 x sequence 1 has -1 more than once"),
        ({"sequence": 3}, "mesh data -1 x fsdp 1 x sequence 3 does not fit 8 devices; .* be 8"),
        ({"data": 2}, "mesh data 2 x fsdp 1 x sequence 1 does not fit 8 devices"),
        ({"sequence": 16}, "does not fit 8 devices"),
    ],
)
def test_meshes_that_do_not_fit_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**sizes).sizes(8)


def test_evaluation_splits_parameters_as_far_as_devices_allow():
    trained = MeshConfig(data=1, fsdp=4, sequence=8)
    assert [trained.for_reading(n).sizes(n) for n in (1, 2, 6, 8)] == [
        (1, 1, 1),
        (1, 2, 1),
        (3, 2, 1),
        (2, 4, 1),
    ]


TREE = {"a": {"kernel": np.arange(48.0).reshape(16, 3)}, "step": np.int32(7)}
RULES = ((r"a/kernel$", P(sharding.FSDP)),)


def test_rules_place_every_leaf():
    mesh = sharding.make_mesh(MeshConfig(fsdp=4))
    placed = sharding.init_sharded(mesh, lambda: jax.tree.map(jnp.asarray, TREE), RULES)
    assert placed["a"]["kernel"].addressable_shards[3].data.shape == (4, 3)
    assert placed["step"].sharding.is_fully_replicated
    replicated = sharding.state_sharding(mesh, TREE)
    assert all(s.is_fully_replicated for s in jax.tree.leaves(replicated))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (((r"kernel", P(None, None, "fsdp")),), r"rule 'kernel' has 3 axes.*a/kernel has shape"),
        (((r"kernel", P(None, "fsdp")),), r"mesh.fsdp 8 does not divide the 3 of a/kernel \(16, 3"),
        (((r"bias", P()),), r"no sharding rule matches a/kernel \(16, 3\)"),
    ],
)
def test_a_rule_that_does_not_fit_is_an_error(rules, message):
    with pytest.raises(ValueError, match=message):
        sharding.state_sharding(sharding.make_mesh(MeshConfig(fsdp=8)), TREE, rules)


def test_sharded_arrays_are_copied_whole_to_another_mesh():
    mesh = sharding.make_mesh(MeshConfig(fsdp=8))
    placed = sharding.init_sharded(mesh, lambda: jax.tree.map(jnp.asarray, TREE), RULES)
    copied = sharding.copy_to(sharding.make_mesh(devices=jax.devices()[:1]), placed)
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
