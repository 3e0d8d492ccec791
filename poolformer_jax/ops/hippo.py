"""State matrices that S4 and S4D start from, computed once on the host in float64."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Complex, Float

S4DInit = Literal["legs", "lin", "inv"]

MAX_INPUT = 2.0
"""Magnitude at which B of HiPPO-LegS is clipped, as in the released code."""


class Modes(NamedTuple):
    """A system x' = (diag(A) - P P^*) x + B u, one of each conjugate pair of modes.

    Attributes:
      frequency: -Im A in radians per unit of time; Re A is -1/2.
      b: B.
      p: P; zeros for a diagonal system.
    """

    frequency: Float[np.ndarray, " n"]
    b: Complex[np.ndarray, " n"]
    p: Complex[np.ndarray, " n"]


def legs(pairs: int) -> Modes:
    """HiPPO-LegS with 2 * pairs states, its normal part diagonalised.

    Before that, A_ij is -sqrt((2i + 1)(2j + 1)) for i > j, -(i + 1) for i = j and 0 above,
    B_i = sqrt(2i + 1), P = B / sqrt(2). A + P P^T is -1/2 plus a skew matrix. Its eigenvectors have
    a phase to choose: the one by which B is imaginary and positive.

    Source: Gu et al. 2020, arXiv:2008.07669; Gu et al. 2022, arXiv:2111.00396, section 3.2.
    """
    i = np.arange(2 * pairs)
    b = np.sqrt(2.0 * i + 1.0)
    skew = np.tril(-np.outer(b, b), -1) - np.diag(i + 0.5) + 0.5 * np.outer(b, b)
    imaginary, vectors = np.linalg.eigh(-1j * skew)
    inputs = np.abs(vectors.conj().T @ b)[:pairs]  # The negative half, of eigenvalues that ascend.
    return Modes(-imaginary[:pairs], 1j * np.minimum(inputs, MAX_INPUT), 1j * inputs / np.sqrt(2))


def diagonal(init: S4DInit, pairs: int) -> Modes:
    """What S4D starts from.

    Source: Gu et al. 2022, arXiv:2206.11893, section 4 (S4D-LegS, S4D-Lin, S4D-Inv).
    """
    n, none = np.arange(pairs), np.zeros(pairs, complex)
    match init:
        case "legs":
            return legs(pairs)._replace(p=none)
        case "lin":
            return Modes(np.pi * n, none + 1.0, none)
        case "inv":
            states = 2 * pairs
            return Modes(states / np.pi * (states / (2 * n + 1) - 1), none + 1.0, none)
