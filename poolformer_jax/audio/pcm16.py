"""Lossless 16-bit codec: the sample itself, shifted to be a code."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer, UInt16


def pcm16_encode(x: Float[np.ndarray, "*shape"]) -> UInt16[np.ndarray, "*shape"]:
    """Rounds a waveform to 65,536 evenly spaced codes; 0.0 becomes 2^15.

    Args:
      x: Samples in [-1, 1]; values outside saturate, as does 1.0, whose code would be 2^16.

    Returns:
      Codes 0 to 65,535: round(2^15 x) + 2^15. For 16-bit samples divided by 2^15 nothing is lost.
    """
    pcm = np.clip(np.rint(x.astype(np.float64) * 2.0**15), -(2**15), 2**15 - 1)
    return (pcm + 2**15).astype(np.uint16)


def pcm16_decode(codes: Integer[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Maps codes 0 to 65,535 to float64 samples in [-1, 1): (code - 2^15) / 2^15."""
    return codes.astype(np.float64) / 2.0**15 - 1.0
