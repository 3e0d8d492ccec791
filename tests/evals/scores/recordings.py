"""Recordings as `open_splits` yields them, and clips as `launch.sample` leaves them: tones."""

import numpy as np

from poolformer_jax.sampling.folder import SampleFolder, make_row


def tone(label, *, seed=0, length=9_000, noise=0.01):
    """A decaying tone whose pitch tells the label, 16 bit."""
    rng = np.random.default_rng(seed)
    time = np.arange(length) / 16_000
    pitch = 200 * 1.4**label * rng.uniform(0.97, 1.03)
    wave = np.exp(-4 * time) * np.sin(2 * np.pi * pitch * time) + noise * rng.normal(size=length)
    return np.clip(12_000 * wave, -(2**15), 2**15 - 1).astype(np.int16)


def tones(count, *, seed=0, **options):
    """`count` labelled examples of ten classes in turn."""
    return [
        {
            "audio": tone(i % 10, seed=1_000 * seed + i, **options),
            "name": f"tone/{i}".encode(),
            "label": i % 10,
        }
        for i in range(count)
    ]


def draw(folder, count, *, label_of=lambda clip: None, finish=True):
    """Fills a folder as `launch.sample` does; a later clip is likelier."""
    drawn = SampleFolder(folder, {"seed": 0}, length=16_000, sample_rate=16_000)
    drawn.start()
    for clip in range(count):
        label = label_of(clip)
        log_probs = np.full(16_000, -(3.0 - clip / count))
        row = make_row(clip, seed=0, label=label, log_probs=log_probs)
        drawn.add(row, tone(clip % 10, seed=clip, length=16_000))
    if finish:
        drawn.finish(count)
    return folder
