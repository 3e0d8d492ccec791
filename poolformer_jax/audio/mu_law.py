"""Mu-law 8-bit codec (mu = 255): logarithmic companding around the linear quantiser."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer, UInt8

from poolformer_jax.audio.linear import linear_decode, linear_encode

MU = 255.0


def mu_law_encode(x: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Compands a waveform and quantises it to 256 codes; 0.0 becomes 128.

    Args:
      x: Samples in [-1, 1]; values outside saturate. Computed in float64.

    Returns:
      Codes 0 to 255.

    Source: the S4 / SaShiMi protocol (github.com/state-spaces/s4), `mu_law_encode`:
      e = sign(x) log1p(255 |x + 1e-8|) / log1p(255), then the linear quantiser.
    """
    x = x.astype(np.float64)
    return linear_encode(np.sign(x) * np.log1p(MU * np.abs(x + 1e-8)) / np.log1p(MU))


def mu_law_decode(codes: Integer[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Expands codes 0 to 255 to float64 samples in [-1, 1].

    Source: the S4 / SaShiMi protocol, `mu_law_decode`: x = sign(y) (256^|y| - 1) / 255 with
      y = 2 code / 255 - 1.
    """
    y = linear_decode(codes)
    return np.sign(y) * ((MU + 1.0) ** np.abs(y) - 1.0) / MU
