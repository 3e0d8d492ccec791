"""The log-mel spectrogram in front of the classifiers of one-second clips.

Source: `librosa.feature.melspectrogram` and `librosa.power_to_db`, as the classifier published with
SaShiMi uses them (Goel et al. 2022, arXiv:2202.09729).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Complex64, Float, Int16

from poolformer_jax.classifier.config import (
    CLIP_LENGTH,
    DYNAMIC_RANGE,
    FRAME_LENGTH,
    HOP,
    MIN_POWER,
    NUM_FRAMES,
    NUM_MELS,
    SAMPLE_RATE,
    MelPadding,
)


def log_mel(
    clips: Float[Array, "b t"] | Int16[Array, "b t"], *, padding: MelPadding = "reflect"
) -> Float[Array, "b 32 32"]:
    """Computes the mel power spectrogram of each clip in dB below its own maximum.

    Clips are padded with zeros on the right, or cut, to one second. Frames of 2048 samples, one
    every 512 and centred, are weighted by a periodic Hann window; 32 triangles, even on the mel
    scale from 0 to 8 kHz, sum the power.

    Args:
      clips: Audio at 16 kHz in [-1, 1], or as 16-bit integers, which are divided by 2^15.
      padding: How the half frames beyond both ends of the second are filled: mirrored without
        repeating the end (`reflect`, the default of librosa until 0.8) or with zeros (`constant`,
        since 0.9).

    Returns:
      [b, mels, frames], float32 in dB: 0 at each clip's maximum, -80 at the least. A power below
      1e-10 counts as 1e-10, so a silent clip is 0 dB everywhere. Equal to librosa's in float64
      within 1e-3 dB; within 1e-2 dB if a constant offset is louder than the rest of the clip: no
      band holds bin 0, so that -80 dB is almost 100 dB below what the FFT's rounding is relative
      to.
    """
    spectra = frame_spectra(clips, padding=padding)
    return mel_levels(spectra.real**2 + spectra.imag**2)


def frame_spectra(
    clips: Float[Array, "b t"] | Int16[Array, "b t"], *, padding: MelPadding
) -> Complex64[Array, "b 32 1025"]:
    """The first half of `log_mel`: the spectra of all frames, [b, frames, bins]."""
    x = one_second(clips)
    x = jnp.pad(x, ((0, 0), (FRAME_LENGTH // 2, FRAME_LENGTH // 2)), mode=padding)
    # A frame is some whole hops in a row, so slices of the hops give all frames without a gather.
    overlap = FRAME_LENGTH // HOP
    hops = x[:, : (NUM_FRAMES + overlap - 1) * HOP].reshape(x.shape[0], -1, HOP)
    frames = jnp.concatenate([hops[:, i : i + NUM_FRAMES] for i in range(overlap)], axis=-1)
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(FRAME_LENGTH) / FRAME_LENGTH)
    return jnp.fft.rfft(frames * window.astype(np.float32)[None, None], axis=-1)


def one_second(
    clips: Float[Array, "b t"] | Int16[Array, "b t"],
) -> Float[Array, "b 16000"]:
    """Float32 samples in [-1, 1], padded with zeros on the right, or cut."""
    x = clips[:, :CLIP_LENGTH].astype(jnp.float32)
    if clips.dtype == jnp.int16:
        x = x / 2**15
    return jnp.pad(x, ((0, 0), (0, CLIP_LENGTH - x.shape[1])))


def mel_levels(power: Float[Array, "b f k"]) -> Float[Array, "b 32 f"]:
    """The second half of `log_mel`: from the power of spectra, [b, frames, bins], to dB."""
    filters = mel_filters().astype(np.float32)
    # A TPU's default product keeps 8 bits of each factor, an error of 0.02 dB.
    mel_power = jnp.einsum("bfk,mk->bmf", power, filters, precision=jax.lax.Precision.HIGHEST)
    mel_power = jnp.maximum(mel_power, MIN_POWER)
    relative = mel_power / mel_power.max(axis=(1, 2), keepdims=True)
    return jnp.maximum(10.0 * jnp.log10(relative), -DYNAMIC_RANGE)


@functools.cache
def mel_filters() -> Float[np.ndarray, "32 1025"]:
    """The triangles over the bins of a frame's spectrum, each of unit area in Hz, in float64.

    Source: Slaney 1998, *Auditory Toolbox*: the mel scale is linear below 1 kHz (200/3 Hz a mel)
    and logarithmic above (27 mels for a factor of 6.4).
    """
    bins = np.fft.rfftfreq(FRAME_LENGTH, 1.0 / SAMPLE_RATE)
    highest = 15.0 + 27.0 * np.log(SAMPLE_RATE / 2 / 1000.0) / np.log(6.4)
    mels = np.linspace(0.0, highest, NUM_MELS + 2)
    logarithmic = 1000.0 * 6.4 ** ((mels - 15.0) / 27.0)
    corners = np.where(mels < 15.0, mels * 200.0 / 3.0, logarithmic)[:, None]
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(0.0, np.minimum(rising, falling)) * 2.0 / (right - left)
