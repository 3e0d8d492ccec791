"""Changes of one-second clips that leave the word the same, on the way to the log-mel spectrogram.

Source: https://github.com/tugstugi/pytorch-speech-commands, which the classifier published with
SaShiMi (Goel et al. 2022, arXiv:2202.09729) was trained with.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Complex64, Float, Int16

from poolformer_jax.classifier.config import NUM_FRAMES, AugmentConfig, MelPadding
from poolformer_jax.classifier.log_mel import frame_spectra, mel_levels, one_second


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


def draw_augmentation(config: AugmentConfig, key: Array, num_clips: int) -> Augmentation:
    """Draws, for each clip and change, whether it is made, and how much.

    The draws depend on the key and the clip's row alone, not on how a batch lies on devices.
    """
    keys = jax.random.split(key, 8)

    def between(key: Array, low: float, high: float) -> Array:
        return jax.random.uniform(key, (num_clips,), minval=low, maxval=high)

    amplitude = between(keys[0], config.min_amplitude, config.max_amplitude)
    longer = 1.0 + between(keys[1], -config.max_speed, config.max_speed)
    stretch = 1.0 + between(keys[2], -config.max_stretch, config.max_stretch)
    shift = jax.random.randint(keys[3], (num_clips,), -config.max_shift, config.max_shift + 1)
    return Augmentation(
        amplitude=_sometimes(config, keys[4], amplitude, otherwise=1.0),
        speed=_sometimes(config, keys[5], 1.0 / longer, otherwise=1.0),
        stretch=_sometimes(config, keys[6], stretch, otherwise=1.0),
        shift=_sometimes(config, keys[7], shift.astype(jnp.float32), otherwise=0.0),
    )


def draw_changes(config: AugmentConfig, key: Array, noise: Array) -> tuple[Augmentation, Noise]:
    """Draws changes of a batch, and how much of each clip is noise, 0 to `max_noise`.

    Args:
      config: Ranges.
      key: Of the draws.
      noise: [b, t], one clip for each of the batch; it is changed in its own way.
    """
    of_clips, of_noise, of_shares = jax.random.split(key, 3)
    how_much, whether = jax.random.split(of_shares)
    num_clips = len(noise)
    share = jax.random.uniform(how_much, (num_clips,), maxval=config.max_noise)
    return draw_augmentation(config, of_clips, num_clips), Noise(
        clips=noise,
        augmentation=draw_augmentation(config, of_noise, num_clips),
        share=_sometimes(config, whether, share, otherwise=0.0),
    )


def augmented_log_mel(
    clips: Float[Array, "b t"] | Int16[Array, "b t"],
    augmentation: Augmentation,
    noise: Noise,
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
      noise: What to add.
      padding: As in `log_mel`.

    Returns:
      [b, mels, frames], float32 in dB below the maximum; time that nothing falls on is silent.
    """
    amplitudes, phases = _changed_frames(clips, augmentation, padding)
    noise_amplitudes, noise_phases = _changed_frames(noise.clips, noise.augmentation, padding)
    share = noise.share[:, None, None]
    clean = ((1.0 - share) * amplitudes).astype(phases.dtype) * phases
    mixed = clean + (share * noise_amplitudes).astype(phases.dtype) * noise_phases
    return mel_levels(mixed.real**2 + mixed.imag**2)


def change_speed(clips: Float[Array, "b t"], speed: Float[Array, " b"]) -> Float[Array, "b t"]:
    """Reads clips at another speed, with linear interpolation; beyond their end there are zeros."""
    length = clips.shape[1]
    position = jnp.arange(length, dtype=jnp.float32)[None] * speed[:, None]
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
    frames = jnp.arange(NUM_FRAMES, dtype=jnp.float32)[None]
    position = (frames + shift[:, None]) * stretch[:, None]
    weights = jnp.maximum(0.0, 1.0 - jnp.abs(position[:, :, None] - frames[:, None]))
    weights = jnp.where(position[:, :, None] < 0.0, 0.0, weights)
    return jnp.einsum("bij,bjk->bik", weights, amplitudes, precision=jax.lax.Precision.HIGHEST)


def _changed_frames(
    clips: Array, augmentation: Augmentation, padding: MelPadding
) -> tuple[Float[Array, "b 32 k"], Complex64[Array, "b 32 k"]]:
    """Amplitudes and phases, as numbers of modulus 1."""
    x = one_second(clips) * augmentation.amplitude[:, None]
    spectra = frame_spectra(change_speed(x, augmentation.speed), padding=padding)
    amplitudes = jnp.sqrt(spectra.real**2 + spectra.imag**2)
    phases = jnp.where(
        amplitudes > 0.0, spectra / jnp.maximum(amplitudes, 1e-30).astype(spectra.dtype), 1.0
    )
    return move_frames(amplitudes, augmentation.stretch, augmentation.shift), phases


def _sometimes(
    config: AugmentConfig, key: Array, drawn: Float[Array, " b"], *, otherwise: float
) -> Float[Array, " b"]:
    return jnp.where(jax.random.bernoulli(key, config.probability, drawn.shape), drawn, otherwise)
