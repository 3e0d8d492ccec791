import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from poolformer_jax import sharding
from poolformer_jax.training import checksum
from poolformer_jax.training.checksum import checksum_arrays, describe_arrays


@pytest.mark.parametrize("is_small", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
def test_every_bit_and_every_place_counts(dtype, is_small, monkeypatch):
    monkeypatch.setattr(checksum, "_SMALL", 8192 if is_small else 0)
    rng = np.random.default_rng(0)
    x = np.asarray(jnp.asarray(rng.integers(0, 100, (3, 4)), dtype))
    bits = x.view(f"u{x.dtype.itemsize}")
    sums = {checksum_arrays(jnp.asarray(x))}
    for place, bit in zip(np.ndindex(x.shape), range(0, 8 * x.dtype.itemsize, 2), strict=False):
        flipped = bits.copy()
        flipped[place] ^= 1 << bit
        sums.add(checksum_arrays(jnp.asarray(flipped.view(x.dtype))))
    sums |= {checksum_arrays(jnp.asarray(y)) for y in (x[::-1], np.zeros_like(x))}
    assert len(sums) == 3 + min(x.size, 4 * x.dtype.itemsize)


@pytest.mark.parametrize("is_small", [True, False])
def test_a_split_array_has_the_checksum_of_the_whole(is_small, monkeypatch):
    monkeypatch.setattr(checksum, "_SMALL", 8192 if is_small else 0)
    mesh = sharding.make_mesh()
    x = jax.random.normal(jax.random.key(0), (16, 3))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert checksum_arrays({"a": split}) == checksum_arrays({"a": x})


def test_other_types():
    mask = jnp.asarray([True, False])
    assert checksum_arrays([mask]) != checksum_arrays([~mask])
    with pytest.raises(ValueError, match="arrays of complex64 have no checksum"):
        checksum_arrays([jnp.zeros(3, jnp.complex64)])


def test_names_shapes_and_types_are_described():
    tree = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((), jnp.int32)}
    assert describe_arrays(tree) == describe_arrays(jax.eval_shape(lambda: tree))
    others = [{**tree, "a": x} for x in (jnp.zeros((3, 2)), jnp.zeros((2, 3), jnp.bfloat16))]
    others += [{"a": tree["a"], "c": tree["b"]}]
    assert len({describe_arrays(x) for x in (tree, *others)}) == 4
