import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.classifier.augmentation import (
    Augmentation,
    Noise,
    augmented_log_mel,
    change_speed,
    draw_changes,
    move_frames,
)
from poolformer_jax.classifier.config import AugmentConfig
from poolformer_jax.classifier.log_mel import log_mel

CONFIG = AugmentConfig()
NEUTRAL = {"amplitude": 1.0, "speed": 1.0, "stretch": 1.0, "shift": 0.0}

compiled_log_mel = jax.jit(log_mel)
compiled_changed = jax.jit(augmented_log_mel)
compiled_draw = jax.jit(draw_changes, static_argnums=0)


@functools.cache
def draw(seed=0, **changes):
    """Draws for 4,000 clips, by name; those of the noise are under `of_noise`."""
    config = dataclasses.replace(CONFIG, **changes)
    clips, noise = compiled_draw(config, jax.random.key(seed), np.zeros((4000, 1), np.int16))
    of_noise = {f"{name}_of_noise": x for name, x in noise.augmentation._asdict().items()}
    drawn = clips._asdict() | of_noise | {"share": noise.share}
    return {name: np.asarray(values) for name, values in drawn.items()}


def neutral(name):
    return NEUTRAL.get(name.removesuffix("_of_noise"), 0.0)


def test_changes_are_made_at_their_rate_and_apart_from_each_other():
    drawn = draw(probability=0.3)
    made = np.stack([values != neutral(name) for name, values in drawn.items()])
    # Four standard errors of 4,000 draws; one in 17 shifts that are made is by 0 frames.
    expected = 0.3 * np.array([16 / 17 if "shift" in name else 1 for name in drawn])
    assert np.abs(made.mean(1) - expected).max() < 4 * np.sqrt(0.3 * 0.7 / 4000)
    together = np.corrcoef(made) - np.eye(len(drawn))
    assert np.abs(together).max() < 4 / np.sqrt(4000)


def test_probability_0_changes_nothing():
    for name, values in draw(probability=0.0).items():
        assert (values == neutral(name)).all()


def test_ranges_are_the_published_ones():
    drawn = draw(probability=1.0)
    for values, low, high in (
        (drawn["amplitude"], 0.7, 1.1),
        (1 / drawn["speed"], 0.8, 1.2),
        (drawn["stretch"], 0.8, 1.2),
        (drawn["share"], 0.0, 0.45),
    ):
        assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6
        # Uniform: mean and standard deviation, each within four standard errors.
        spread = (high - low) / np.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 4 * spread / np.sqrt(4000)
        assert abs(values.std() / spread - 1) < 4 / np.sqrt(2 * 4000)
    shifts, counts = np.unique(drawn["shift"], return_counts=True)
    assert shifts.tolist() == list(range(-8, 9))
    assert np.abs(counts - 4000 / 17).max() < 4 * np.sqrt(4000 / 17)


def test_draws_follow_the_key():
    one, other = draw(probability=1.0), draw(probability=1.0, seed=1)
    draw.cache_clear()
    same = draw(probability=1.0)
    for name in one:
        assert (one[name] == same[name]).all() and (one[name] != other[name]).any()


def change(batch=2, *, amplitude=1.0, speed=1.0, stretch=1.0, shift=0.0):
    return Augmentation(*(jnp.full(batch, x) for x in (amplitude, speed, stretch, shift)))


def compiled(clips, augmentation, noise=None):
    noise = noise or Noise(np.zeros_like(clips), change(), jnp.zeros(2))
    return compiled_changed(clips, augmentation, noise)


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
