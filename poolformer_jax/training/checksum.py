"""Checksums of arrays, computed where the arrays are, whatever the mesh and the number of hosts.

The checksum of a vector is the sum over its elements, modulo 2^32, of the element's bits mixed
with its index; of more axes the first is summed first, and what is left is summed alike. A sum has
no order, so that it does not matter how the array is split over devices. The mixing is a bijection
for each index, so that a change of one element is always noticed, and any other but for a chance of
2^-32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Shaped, UInt32

# Elements of arrays that are put together: a call for each would take longer than its sum.
_SMALL = 8192


def describe_arrays(tree: Any) -> str:
    """A digest of the names, shapes and types of a tree's leaves, which may be abstract."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    lines = [f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}" for path, leaf in leaves]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def checksum_arrays(tree: Any) -> str:
    """A digest of the values of a tree's leaves; with several processes all have to call it.

    Raises:
      ValueError: If a leaf has elements of more than 32 bits, or of less than a byte.
    """
    leaves = jax.tree.leaves(tree)
    sums = [_checksum(leaf) for leaf in leaves if leaf.size > _SMALL]
    if small := [leaf for leaf in leaves if leaf.size <= _SMALL]:
        sums.append(_checksum_together(small))
    return hashlib.sha256(np.asarray(_stack(sums)).astype("<u4").tobytes()).hexdigest()


@jax.jit
def _checksum(x: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    bits = _bits(x)
    while bits.ndim:
        index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, 0)
        mixed = _mix(bits ^ (index * jnp.uint32(0x9E3779B9)))
        bits = jnp.sum(mixed, axis=0, dtype=jnp.uint32)  # Vectorised; along the last it is not.
    return _mix(bits)


@jax.jit
def _checksum_together(arrays: Sequence[Shaped[Array, "..."]]) -> UInt32[Array, ""]:
    return _checksum(jnp.concatenate([_bits(x).reshape(-1) for x in arrays]))


@jax.jit
def _stack(sums: Sequence[UInt32[Array, ""]]) -> UInt32[Array, " n"]:
    return jnp.stack(sums)


def _bits(x: Shaped[Array, "..."]) -> UInt32[Array, "..."]:
    if x.dtype == bool:
        return x.astype(jnp.uint32)
    unsigned = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}
    info = jnp.finfo if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo
    width = 0 if jnp.issubdtype(x.dtype, jnp.complexfloating) else info(x.dtype).bits
    if width not in unsigned:
        raise ValueError(f"arrays of {x.dtype} have no checksum; keep them in another type")
    return jax.lax.bitcast_convert_type(x, unsigned[width]).astype(jnp.uint32)


def _mix(bits: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """The finalizer of MurmurHash3, a bijection."""
    bits ^= bits >> 16
    bits *= jnp.uint32(0x85EBCA6B)
    bits ^= bits >> 13
    bits *= jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
