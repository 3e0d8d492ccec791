"""Linear 8-bit quantiser."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer, UInt8


def linear_encode(x: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Quantises a waveform to 256 evenly spaced codes; 0.0 becomes 128.

    Args:
      x: Samples in [-1, 1]; values outside saturate. Computed in float64, so that the codes do not
        depend on the input's precision mode or the platform.

    Returns:
      Codes 0 to 255.

    Source: the S4 / SaShiMi protocol (github.com/state-spaces/s4), `linear_encode`:
      trunc(v * (256 - 0.01) + 0.005) with v = (x + 1) / 2.
    """
    v = (x.astype(np.float64) + 1.0) / 2.0
    return np.clip(np.trunc(v * (256 - 0.01) + 0.005), 0, 255).astype(np.uint8)


def linear_decode(codes: Integer[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Maps codes 0 to 255 to evenly spaced float64 samples in [-1, 1]: y = 2 code / 255 - 1."""
    return 2.0 * codes.astype(np.float64) / 255.0 - 1.0
