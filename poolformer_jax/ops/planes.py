"""Arithmetic of numbers that are real arrays or complex `Planes`, element by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from poolformer_jax.typing import Planes


def multiply(a: Any, b: Any) -> Any:
    """The product a b, of two numbers of the same kind."""
    if isinstance(a, Planes):
        return Planes(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)
    return a * b


def add(a: Any, b: Any) -> Any:
    """The sum a + b, of two numbers of the same kind."""
    return jax.tree.map(jnp.add, a, b)


def scale(factor: Any, a: Any) -> Any:
    """The product of a real array and a number of either kind."""
    return jax.tree.map(lambda plane: factor * plane, a)


def conjugate(a: Any) -> Any:
    """The complex conjugate; a real array as it is."""
    return Planes(a.real, -a.imag) if isinstance(a, Planes) else a


def from_planes(planes: Sequence[Any]) -> Any:
    """One plane as a real array, two as `Planes`; `jax.tree.leaves` is the opposite."""
    return Planes(*planes) if len(planes) == 2 else planes[0]


def real_product(a: Any, b: Any) -> Any:
    """The product a b if real; 2 Re a b if complex, the share of a and its conjugate in a sum."""
    if isinstance(a, Planes):
        return 2.0 * (a.real * b.real - a.imag * b.imag)
    return a * b
