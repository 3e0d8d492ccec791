"""The log-mel front end against librosa and against a NumPy loop.

`log_mel_librosa.npz` holds what librosa 0.11.0 computes in float64; log_mel_librosa.py wrote it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.classifier.log_mel import log_mel, mel_filters
from tests.classifier.log_mel_librosa import PADDINGS, PATH, signals

compiled_log_mel = jax.jit(log_mel, static_argnames="padding")


def batch_of_one(clip):
    return jnp.asarray(clip[None], jnp.float32)


def numpy_log_mel(clip, padding):
    """[mels, frames] in dB by loops over frames, mels and bins, in float64."""
    clip = np.concatenate([clip[:16_000], np.zeros(max(0, 16_000 - len(clip)))])

    def sample(i):
        if padding == "reflect":
            i = -i if i < 0 else i
            i = 2 * (len(clip) - 1) - i if i >= len(clip) else i
        return clip[i] if 0 <= i < len(clip) else 0.0

    def hertz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * math.exp(math.log(6.4) * (mel - 15) / 27)

    top = 15 + 27 * math.log(8) / math.log(6.4)
    corners = [hertz(top * i / 33) for i in range(34)]
    window = [math.sin(math.pi * n / 2048) ** 2 for n in range(2048)]
    level = np.empty((32, 32))
    for frame in range(32):
        segment = [sample(512 * frame + n - 1024) * window[n] for n in range(2048)]
        power = abs(np.fft.fft(segment)[:1025]) ** 2
        for mel, (low, centre, high) in enumerate(
            zip(corners[:-2], corners[1:-1], corners[2:], strict=True)
        ):
            total = 0.0
            for k in range(math.ceil(low / 7.8125), math.floor(high / 7.8125) + 1):
                f = 7.8125 * k
                weight = (f - low) / (centre - low) if f < centre else (high - f) / (high - centre)
                total += power[k] * weight * 2 / (high - low)
            level[mel, frame] = 10 * math.log10(max(total, 1e-10))
    return np.maximum(level - level.max(), -80.0)


def assert_same_levels(actual, expected, *, offset=False):
    """Compares two spectrograms in dB, of clips with or without a constant offset.

    A float32 FFT is exact to about 1e-7 of a frame's largest amplitude. 60 dB below it that is
    1e-4 of a bin's amplitude, or 1e-3 dB, less what the sum over a band averages out: 2e-5 dB was
    measured. 80 dB below, where the range ends, it is ten times as much.

    No band holds bin 0, so an offset counts for the FFT's rounding but not for the maximum, which
    is then what the window spreads of it to bin 1: 17 dB less, and the end of the range lies
    almost 100 dB below the frame's largest amplitude. 7e-3 dB was measured there, the worst of
    2,000 clips whose offsets and amplitudes were drawn at random.
    """
    assert np.isfinite(actual).all()
    error = abs(actual - expected)
    assert error[expected > -60.0].max() < (1e-3 if offset else 1e-4)
    assert error.max() < (1e-2 if offset else 1e-3)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", signals())
def test_equals_librosa(name, padding):
    with np.load(PATH) as stored:
        expected = stored[f"{name}/{padding}"]
    actual = compiled_log_mel(batch_of_one(signals()[name]), padding=padding)
    assert_same_levels(np.asarray(actual[0]), expected, offset=name.endswith("_on_offset"))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", ["voiced_too_short", "noise_too_long"])
def test_equals_numpy_loop(name, padding):
    actual = compiled_log_mel(batch_of_one(signals()[name]), padding=padding)
    assert_same_levels(np.asarray(actual[0]), numpy_log_mel(signals()[name], padding))


def test_paddings_differ_only_near_the_ends():
    clip = batch_of_one(signals()["noise_too_long"])
    reflect = np.asarray(compiled_log_mel(clip, padding="reflect")[0])
    constant = np.asarray(compiled_log_mel(clip, padding="constant")[0])
    # Frames 0, 1, 30 and 31 reach over an end. The maximum, 0 dB, is in another frame of each.
    difference = (reflect - constant)[:, 2:30]
    assert np.ptp(difference) < 1e-4
    assert abs((reflect - constant)[:, 0] - difference.mean()).min() > 0.01


def test_silence_is_zero_decibels_also_without_samples():
    for length in (0, 16_000):
        assert not np.asarray(compiled_log_mel(jnp.zeros((1, length)))).any()


def test_clips_of_a_batch_do_not_see_each_other():
    clips = [signals()[name] for name in ("chirp", "silence", "impulses")]
    together = compiled_log_mel(jnp.asarray(np.stack(clips), jnp.float32))
    alone = [compiled_log_mel(batch_of_one(clip))[0] for clip in clips]
    # Another order of summation in the product with the filters: float32 rounding.
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-3)


def test_sixteen_bit_integers_are_fractions_of_full_scale():
    pcm = np.round(signals()["noise_at_the_floor"] * 2**15 * 1e3).astype(np.int16)
    actual = compiled_log_mel(jnp.asarray(pcm[None]))
    # Divisions by powers of two are exact, but two programs may sum in two orders.
    expected = compiled_log_mel(batch_of_one(pcm / 2**15))
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    # The floor of 1e-10 is absolute: the same integers as full-scale amplitudes are far above it.
    assert abs(actual - compiled_log_mel(batch_of_one(pcm / 2**26))).max() > 1.0


def test_filters_have_unit_area():
    # Triangles sampled at whole bins of 7.8 Hz; the narrowest spans 17 bins.
    np.testing.assert_allclose(mel_filters().sum(axis=1) * 7.8125, 1.0, atol=0.01)
