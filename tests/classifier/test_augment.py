import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.classifier.augment import (
    Augmentation,
    Noise,
    augmented_log_mel,
    change_speed,
    move_frames,
)
from poolformer_jax.classifier.log_mel import log_mel
from tests.layers.conftest import quick_compilation

__all__ = ["quick_compilation"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

compiled_log_mel = jax.jit(log_mel)
compiled = jax.jit(augmented_log_mel)


def change(batch=2, *, amplitude=1.0, speed=1.0, stretch=1.0, shift=0.0):
    return Augmentation(*(jnp.full(batch, x) for x in (amplitude, speed, stretch, shift)))


def random_clips(seed, batch=2, length=16_000):
    return np.random.default_rng(seed).normal(0, 0.1, (batch, length)).astype(np.float32)


def assert_same_levels(actual, expected):
    """In dB: spectra of float32 sums of 2,048 samples, in another order or by way of a root."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-3)


def test_no_change_is_the_log_mel():
    clips = random_clips(0, length=12_000)
    share = jnp.zeros(2)
    noise = Noise(random_clips(1), change(), share)
    assert_same_levels(compiled(clips, change(), noise), compiled_log_mel(clips))
    assert_same_levels(compiled(clips, change(amplitude=0.3)), compiled_log_mel(clips))


def test_clip_and_noise_are_mixed_by_amplitude_and_share():
    clips, noise = random_clips(0), random_clips(1)
    share = np.float32([0.0, 0.45])
    mixed = compiled(
        clips, change(amplitude=0.5), Noise(noise, change(amplitude=2.0), jnp.asarray(share))
    )
    sums = (1 - share[:, None]) * 0.5 * clips + share[:, None] * 2.0 * noise
    assert_same_levels(mixed, compiled_log_mel(sums))


def test_shift_moves_the_spectrogram_and_leaves_silence():
    clips = random_clips(0)
    plain = np.asarray(compiled_log_mel(clips))
    later = np.asarray(compiled(clips, change(shift=-3.0)))
    earlier = np.asarray(compiled(clips, change(shift=5.0)))
    # Each is in dB below its own maximum, which may have been moved out.
    for moved, kept in (
        (later[:, :, 3:], plain[:, :, :-3]),
        (earlier[:, :, :-5], plain[:, :, 5:]),
    ):
        peak = kept.max(axis=(1, 2), keepdims=True)
        assert_same_levels(moved, kept - peak)
    assert (later[:, :, :3] == -80).all() and (earlier[:, :, -5:] == -80).all()


@pytest.mark.parametrize("speed", [1 / 1.2, 1.0, 1 / 0.8])
def test_speed_reads_between_the_samples(speed):
    clips = random_clips(0, length=400)
    clips[:, -1] = 0.0  # What follows the end is silence, without a jump.
    expected = np.zeros((2, 400))
    for row in range(2):
        for i in range(400):
            left = int(i * speed)
            following = [*clips[row], 0.0]
            if left < 400:
                part = i * speed - left
                expected[row, i] = (1 - part) * following[left] + part * following[left + 1]
    # Positions up to 500 in float32 are exact to 3e-5 samples, times slopes of up to 0.7.
    actual = change_speed(jnp.asarray(clips), jnp.full(2, speed))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    ("stretch", "shift"), [(1.0, 0), (1.2, 0), (0.8, 0), (0.8, 8), (1.1, -8), (1.2, 3)]
)
def test_frames_are_stretched_then_shifted(stretch, shift):
    """Against what the published code does step by step, but for the phases."""
    frames = np.random.default_rng(0).uniform(0, 1, (32, 5))
    padded = np.concatenate([frames, np.zeros((2, 5))])
    longer = []
    for position in np.arange(0, 32, stretch):
        left = int(position)
        part = position - left
        longer.append((1 - part) * padded[left] + part * padded[left + 1])
    longer = [np.zeros(5)] * -shift + longer if shift < 0 else longer[shift:]
    expected = (longer + [np.zeros(5)] * 32)[:32]
    actual = move_frames(
        jnp.float32(frames[None]), jnp.float32([stretch]), jnp.float32([float(shift)])
    )
    # Positions up to 38 in float32 are exact to 2e-6 frames.
    np.testing.assert_allclose(actual[0], expected, rtol=0, atol=1e-5)
