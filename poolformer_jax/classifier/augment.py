"""Changes of one-second clips that leave the word the same, on the way to the log-mel spectrogram.

Everything here is a function of the clips and of numbers given for each of them; the numbers are
drawn in `training/augmentation.py`.

Source: https://github.com/tugstugi/pytorch-speech-commands, which the classifier published with
SaShiMi (Goel et al. 2022, arXiv:2202.09729) was trained with.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Complex64, Float, Int16

from poolformer_jax.classifier.log_mel import (
    NUM_FRAMES,
    MelPadding,
    frame_spectra,
    mel_levels,
    one_second,
)


class Augmentation(NamedTuple):
    """What is done to each clip of a batch; all are [b] in float32.

    Attributes:
      amplitude: Factor of the samples; 1 changes nothing.
      speed: Samples that pass in the time of one, with the pitch: 2 is an octave up in half the
        time; 1 changes nothing.
      stretch: Frames that pass in the time of one, at the same pitch; 1 changes nothing.
      shift: Frames cut off at the start, or, if negative, put before it; 0 changes nothing.
    """

    amplitude: Array
    speed: Array
    stretch: Array
    shift: Array


class Noise(NamedTuple):
    """What is mixed into a batch.

    Attributes:
      clips: [b, t], float or int16.
      augmentation: Of these.
      share: [b] in [0, 1]: the result is (1 - share) clip + share noise.
    """

    clips: Array
    augmentation: Augmentation
    share: Array


def augmented_log_mel(
    clips: Float[Array, "b t"] | Int16[Array, "b t"],
    augmentation: Augmentation,
    noise: Noise | None = None,
    *,
    padding: MelPadding = "reflect",
) -> Float[Array, "b 32 32"]:
    """Computes the spectrograms, see `log_mel`, of changed clips.

    Amplitude and speed act on the samples of the (padded or cut) second, stretch and shift on its
    frames, where noise is then added. The amplitudes between two frames are interpolated and the
    phases left where they are: they only matter for how clip and noise interfere. (The published
    code moves the phases too, by a phase vocoder.)

    Args:
      clips: As in `log_mel`.
      augmentation: Changes of the clips.
      noise: What to add, if anything.
      padding: As in `log_mel`.

    Returns:
      [b, mels, frames], float32 in dB below the maximum; time that nothing falls on is silent.
    """
    if noise is None:
        amplitudes, _ = _changed_frames(clips, augmentation, padding)
        return mel_levels(amplitudes**2)
    amplitudes, phases = _changed_frames(clips, augmentation, padding)
    noise_amplitudes, noise_phases = _changed_frames(noise.clips, noise.augmentation, padding)
    share = noise.share[:, None, None]
    mixed = (1.0 - share) * amplitudes * phases + share * noise_amplitudes * noise_phases
    return mel_levels(mixed.real**2 + mixed.imag**2)


def change_speed(clips: Float[Array, "b t"], speed: Float[Array, " b"]) -> Float[Array, "b t"]:
    """Reads clips at another speed, with linear interpolation; beyond their end there are zeros."""
    length = clips.shape[1]
    position = jnp.arange(length, dtype=jnp.float32) * speed[:, None]
    before = jnp.floor(position)
    fraction = position - before
    index = before.astype(jnp.int32)
    padded = jnp.pad(clips, ((0, 0), (0, 1)))

    def read(index: Array) -> Array:
        return jnp.take_along_axis(padded, index, axis=1, mode="fill", fill_value=0.0)

    return (1.0 - fraction) * read(index) + fraction * read(index + 1)


def move_frames(
    amplitudes: Float[Array, "b 32 k"], stretch: Float[Array, " b"], shift: Float[Array, " b"]
) -> Float[Array, "b 32 k"]:
    """Stretches, then shifts, with linear interpolation between frames; outside there are zeros."""
    frames = jnp.arange(NUM_FRAMES, dtype=jnp.float32)
    position = (frames + shift[:, None]) * stretch[:, None]
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(position[:, :, None] - frames))
    weights = jnp.where(position[:, :, None] < 0.0, 0.0, weights)
    return jnp.einsum("bij,bjk->bik", weights, amplitudes, precision=jax.lax.Precision.HIGHEST)


def _changed_frames(
    clips: Array, augmentation: Augmentation, padding: MelPadding
) -> tuple[Float[Array, "b 32 k"], Complex64[Array, "b 32 k"]]:
    """Amplitudes and phases, as numbers of modulus 1."""
    x = one_second(clips) * augmentation.amplitude[:, None]
    spectra = frame_spectra(change_speed(x, augmentation.speed), padding=padding)
    amplitudes = jnp.sqrt(spectra.real**2 + spectra.imag**2)
    phases = jnp.where(amplitudes > 0.0, spectra / jnp.maximum(amplitudes, 1e-30), 1.0)
    return move_frames(amplitudes, augmentation.stretch, augmentation.shift), phases
