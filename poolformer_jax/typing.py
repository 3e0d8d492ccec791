"""The table of dimension letters, array aliases and complex numbers as two planes.

Shapes in annotations and docstrings use these letters everywhere:

| letter | dimension                                              |
|--------|--------------------------------------------------------|
| b      | batch (clips)                                          |
| t      | time (steps of the level in question)                  |
| l      | time after a pool (coarse steps), t = l * f            |
| f      | pooling factor                                         |
| d      | model width                                            |
| e      | recurrent width                                        |
| c      | channels of a recurrence (e / 2 if complex, e if real) |
| n      | gate blocks; states of each channel (Mamba)            |
| g      | groups of a pool                                       |
| v      | codes (size of the vocabulary)                         |
| h, w   | height and width of an image (mels and frames)         |
| k      | classes                                                |
"""

from __future__ import annotations

from typing import NamedTuple

from jax import Array
from jaxtyping import Float


class Planes(NamedTuple):
    """A complex array as two real arrays of the same shape and type.

    TPUs have no complex arithmetic in kernels and no complex bfloat16; two planes keep both
    possible, and keep the real part of a recurrence contiguous in memory.
    """

    real: Float[Array, "..."]
    imag: Float[Array, "..."]


RealOrPlanes = Float[Array, "..."] | Planes
