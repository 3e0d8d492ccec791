"""Checksums of arrays, computed where the arrays are, whatever the mesh and the number of hosts.

The checksum of an array is the sum over its elements, modulo 2^32, of the element's bits mixed with
its index. A sum has no order, so that it does not matter how the array is split over devices. The
mixing is a bijection for each index, so that a change of one element is always noticed, and any
other with a probability of 1 - 2^-32.
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped, UInt32


def describe_arrays(tree: Any) -> str:
    """A digest of the names, shapes and types of a tree's leaves, which may be abstract."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    lines = [f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}" for path, leaf in leaves]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def checksum_arrays(tree: Any) -> str:
    """A digest of the values of a tree's leaves; with several processes all have to call it."""
    sums = jax.device_get([_checksum(leaf) for leaf in jax.tree.leaves(tree)])
    return hashlib.sha256(b"".join(int(x).to_bytes(4, "little") for x in sums)).hexdigest()


@jax.jit
def _checksum(x: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    # No reshape, which would gather an array that is split.
    index, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    bits ^= index * jnp.uint32(0x9E3779B9)
    # The finalizer of MurmurHash3.
    bits ^= bits >> 16
    bits *= jnp.uint32(0x85EBCA6B)
    bits ^= bits >> 13
    bits *= jnp.uint32(0xC2B2AE35)
    bits ^= bits >> 16
    return jnp.sum(bits, dtype=jnp.uint32)
