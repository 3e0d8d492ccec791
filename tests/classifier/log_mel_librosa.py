"""Writes log_mel_librosa.npz, the log-mel spectrograms of librosa that test_log_mel.py compares.

    pip install librosa && python -m tests.classifier.log_mel_librosa

librosa is no dependency of this project; it is needed only to write the file again.
"""

import pathlib

import numpy as np

PATH = pathlib.Path(__file__).with_suffix(".npz")
PADDINGS = ("reflect", "constant")


def signals():
    """Clips by name, float64 in [-1, 1] at 16 kHz, of several lengths."""
    t = np.arange(16_000) / 16_000
    voiced = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 40))
    impulse = np.zeros(16_000)
    impulse[[3, 8_000, 15_990]] = 1.0, -0.5, 0.25
    # The stream of the old generator is frozen for good, that of the new one is not.
    noise = np.random.RandomState(0).uniform(-1, 1, 20_000)
    return {
        "chirp": 0.8 * np.sin(2 * np.pi * (50 * t + 3_900 * t**2)),
        "noise_too_long": 0.5 * noise,
        "voiced_too_short": (0.3 * voiced * np.exp(-4 * t))[:9_000],
        "impulses": impulse,
        "noise_at_the_floor": 2e-6 * noise[:16_000],
        "silence": np.zeros(16_000),
        # Far louder than what rides on them. Rounded to what float32 and 16 bits hold, so that
        # only the front end's own rounding is compared.
        "tone_on_offset": np.float32(0.3 + 1e-5 * np.sin(2 * np.pi * 1_000 * t)).astype(float),
        "voiced_on_offset": np.round((0.1 + 3e-4 * voiced * np.exp(-4 * t)) * 2**15) / 2**15,
    }


def main():
    import librosa

    spectrograms = {}
    for name, clip in signals().items():
        clip = librosa.util.fix_length(clip, size=16_000)
        for padding in PADDINGS:
            power = librosa.feature.melspectrogram(
                y=clip, sr=16_000, n_mels=32, n_fft=2048, hop_length=512, pad_mode=padding
            )
            assert power.dtype == np.float64
            level = librosa.power_to_db(power, ref=np.max, amin=1e-10, top_db=80.0)
            spectrograms[f"{name}/{padding}"] = level.astype(np.float32)
    np.savez_compressed(PATH, librosa_version=librosa.__version__, **spectrograms)


if __name__ == "__main__":
    main()
