"""From 16-bit PCM to codes and back, by the codec's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float, Int16, Integer, UInt

from poolformer_jax.audio.linear import linear_decode, linear_encode
from poolformer_jax.audio.mu_law import mu_law_decode, mu_law_encode
from poolformer_jax.audio.pcm16 import pcm16_decode, pcm16_encode

CodecName = Literal["mu_law", "linear", "pcm16"]

_FUNCTIONS: Mapping[str, tuple[Callable, Callable]] = {
    "mu_law": (mu_law_encode, mu_law_decode),
    "linear": (linear_encode, linear_decode),
    "pcm16": (pcm16_encode, pcm16_decode),
}

NUM_CODES: Mapping[CodecName, int] = {"mu_law": 256, "linear": 256, "pcm16": 65_536}
"""Codes of each codec: the size of the model's vocabulary."""


def silence_code(codec: CodecName) -> int:
    """The code of sample value 0.0: the middle one.

    Clips are padded with it AFTER encoding, so that padding is silence whatever a clip's minimum
    and maximum are.
    """
    return NUM_CODES[codec] // 2


def encode(
    pcm: Int16[np.ndarray, " t"],
    *,
    codec: CodecName,
    normalize: bool,
    part: slice = slice(None),
) -> UInt[np.ndarray, " _"]:
    """Encodes one clip, or a part of it.

    Args:
      pcm: The clip's own samples, without padding.
      codec: "mu_law" or "linear" (8 bit), or "pcm16" (16 bit).
      normalize: True scales the clip's minimum and maximum to -1 and 1,
        -1 + 2 (x - min) / (max - min + 1e-6), except that a constant clip, which the formula would
        turn into the loudest negative value, becomes silence; False divides by 2^15.
      part: Samples to encode. Whatever it is, the minimum and maximum are the whole clip's, so a
        sample's code does not depend on it.

    Returns:
      Codes 0 to NUM_CODES[codec] - 1, uint8 or uint16.

    Raises:
      ValueError: If the codec is unknown.

    Source: the S4 / SaShiMi protocol (github.com/state-spaces/s4), `minmax_scale` and `quantize`.
    """
    encoder, _ = _functions(codec)
    return encoder(_min_max_scale(pcm, part) if normalize else pcm[part] / 2.0**15)


def decode(codes: Integer[np.ndarray, " t"], *, codec: CodecName) -> Int16[np.ndarray, " t"]:
    """Decodes to 16-bit PCM: round(2^15 x), saturated at 2^15 - 1 so that the last code can't wrap.

    It is the inverse of `encode` with normalize=False: all codes survive decode and encode.

    Args:
      codes: 0 to NUM_CODES[codec] - 1, of any integer type.
      codec: Whose codes they are.

    Raises:
      ValueError: If the codec is unknown.
    """
    _, decoder = _functions(codec)
    return to_pcm(decoder(codes))


def to_pcm(x: Float[np.ndarray, " t"]) -> Int16[np.ndarray, " t"]:
    """Rounds samples in [-1, 1] to 16-bit PCM; values outside saturate."""
    return np.clip(np.rint(x * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)


def _min_max_scale(pcm: Int16[np.ndarray, " t"], part: slice) -> Float[np.ndarray, " _"]:
    x = pcm[part].astype(np.float64)
    if not x.size:
        return x
    low, high = float(pcm.min()), float(pcm.max())
    if low == high:
        return np.zeros_like(x)
    return -1.0 + 2.0 * (x - low) / (high - low + 1e-6)


def _functions(codec: str) -> tuple[Callable, Callable]:
    if codec not in _FUNCTIONS:
        raise ValueError(f"unknown codec {codec!r}; known: {', '.join(_FUNCTIONS)}")
    return _FUNCTIONS[codec]
