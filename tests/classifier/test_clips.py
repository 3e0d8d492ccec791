import itertools

import numpy as np
import pytest

from poolformer_jax.audio.wav import write_wav
from poolformer_jax.classifier.clips import (
    LabelledClips,
    read_labelled_clips,
    read_noise,
    synthetic_noise,
    training_batches,
)
from poolformer_jax.data.builders.prepare import location
from poolformer_jax.data.config import DataConfig, LabelledDataConfig
from poolformer_jax.data.datasets import DATASETS


def test_clips_are_padded_or_cut_to_a_second_as_they_are():
    rng = np.random.default_rng(0)
    audio = [rng.integers(-(2**15), 2**15, n).astype(np.int16) for n in (3, 16_000, 20_000)]
    clips = read_labelled_clips(
        [{"audio": x, "label": label} for x, label in zip(audio, (2, 0, 1), strict=True)]
    )
    assert clips.labels.tolist() == [2, 0, 1] and len(clips) == 3
    assert clips.audio[0, :3].tolist() == audio[0].tolist() and not clips.audio[0, 3:].any()
    np.testing.assert_array_equal(clips.audio[1], audio[1])
    np.testing.assert_array_equal(clips.audio[2], audio[2][:16_000])


def clips_of(labels):
    """Clips that begin with their own number."""
    audio = np.zeros((len(labels), 16_000), np.int16)
    audio[:, 0] = np.arange(len(labels))
    return LabelledClips(audio, labels)


def test_classes_come_equally_often_and_clips_of_a_class_too():
    labels = np.repeat(np.int32([0, 2, 3]), [10, 100, 390])  # Class 1 has no clip.
    draws = []
    batches = training_batches(clips_of(labels), batch_size=96, seed=0)
    for batch in itertools.islice(batches, 20 * 6):  # 500 clips are 6 batches.
        draws.append(batch["audio"][:, 0])
        np.testing.assert_array_equal(batch["labels"], labels[draws[-1]])
    draws = np.concatenate(draws)
    counts = np.bincount(labels[draws], minlength=4) / len(draws)
    # Four standard errors.
    assert np.abs(counts - [1 / 3, 0, 1 / 3, 1 / 3]).max() < 4 * np.sqrt(2 / 9 / len(draws))
    in_small_class = np.bincount(draws, minlength=10)[:10]
    expected = len(draws) / 30
    assert np.abs(in_small_class - expected).max() < 4 * np.sqrt(expected)


def test_batches_follow_seed_and_position():
    clips, noise = clips_of(np.int32(np.arange(50) % 7)), clips_of(np.arange(9, dtype=np.int32))

    def batches(seed, start, count, noise=noise.audio):
        drawn = training_batches(
            clips, batch_size=20, seed=seed, start_example=20 * start, noise=noise
        )
        return [
            {name: rows.tolist() for name, rows in batch.items()}
            for batch in itertools.islice(drawn, count)
        ]

    first = batches(0, 0, 6)  # Two epochs of three.
    for start in (1, 2, 3, 4):
        assert batches(0, start, 6 - start) == first[start:]
    assert all(set(batch) == {"audio", "labels", "noise"} for batch in first)
    assert {clip[0] for batch in first for clip in batch["noise"]} == set(range(9))
    for other in (batches(1, 0, 3), first[3:]):
        for name in ("audio", "noise"):
            assert [batch[name] for batch in first[:3]] != [batch[name] for batch in other]
    assert set(batches(0, 0, 1, noise=None)[0]) == {"audio", "labels"}


def test_synthetic_noise_is_white_to_red_at_its_level(monkeypatch):
    monkeypatch.setattr("poolformer_jax.classifier.clips._NOISE_CLIPS", 100)
    noise = synthetic_noise(0) / 2**15
    # Rounded to 16 bits, and clipped hardly ever.
    np.testing.assert_allclose(np.sqrt(np.mean(noise**2, axis=1)), 0.05, rtol=1e-2)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [(250 * 2**i, 500 * 2**i) for i in range(5)]
    levels = np.log2([power[:, low:high].mean(axis=1) for low, high in octaves])
    slopes = np.polyfit(np.arange(5), levels, 1)[0]  # Octave means fall like f^-a: by a each.
    assert -2.1 < slopes.min() < -1.9 and -0.1 < slopes.max() < 0.1
    assert (synthetic_noise(1) != synthetic_noise(0)).any()


def test_recorded_noise_is_cut_into_seconds(tmp_path):
    rng = np.random.default_rng(0)
    tap, bike = (rng.integers(-99, 99, n).astype(np.int16) for n in (40_000, 16_000))
    write_wav(tmp_path / "tap.wav", tap, 16_000)
    write_wav(tmp_path / "bike.wav", bike, 16_000)
    (tmp_path / "README.md").write_text("not noise")
    expected = np.stack([bike, tap[:16_000], tap[16_000:32_000]])
    np.testing.assert_array_equal(read_noise(tmp_path), expected)


def test_noise_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no WAV file of a second or more"):
        read_noise(tmp_path)
    write_wav(tmp_path / "tap.wav", np.zeros(9000, np.int16), 8000)
    with pytest.raises(ValueError, match=r"tap.wav has 8000 Hz, expected 16000"):
        read_noise(tmp_path)


@pytest.mark.parametrize("name", ["beethoven", "youtubemix"])
def test_music_has_no_labels(name):
    with pytest.raises(ValueError, match=f"{name}' has no labels to learn; use one of digits, .*"):
        LabelledDataConfig(name=name)


def test_configuration_is_that_of_the_data_set():
    for name, partial in itertools.product(DATASETS, (False, True)):
        if DATASETS[name].num_classes and not (partial and name.startswith("digits")):
            fields = {"name": name, "partial": partial, "data_dir": "d", "build_seed": 3}
            assert location(LabelledDataConfig(**fields)) == location(DataConfig(**fields))
    with pytest.raises(ValueError, match="unknown data set name 'sc9'"):
        LabelledDataConfig(name="sc9")
    with pytest.raises(ValueError, match="noise_dir must be a path or None"):
        LabelledDataConfig(noise_dir="")
