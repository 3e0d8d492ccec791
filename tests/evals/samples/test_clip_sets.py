import numpy as np
import pytest

from poolformer_jax.audio.codec import decode, encode
from poolformer_jax.evals.samples.clip_sets import (
    baseline_sets,
    noise_set,
    real_set,
    round_trip_set,
)
from tests.evals.scores.recordings import tones


def read_all(clips, batch_size=4):
    batches = list(clips.read(batch_size))
    names = [name for batch in batches for name in batch.names]
    audio = np.concatenate([batch.audio for batch in batches])
    assert len(audio) == clips.num_clips
    return names, audio, batches


def test_recordings_are_scaled_padded_and_cut_and_reported():
    source = tones(5)
    source[1]["audio"] = np.zeros(300, np.int16)
    source[3]["audio"] = np.arange(20_000, dtype=np.int16)
    clips = real_set(source, "test")
    names, audio, batches = read_all(clips)
    assert (clips.name, clips.num_clips) == ("real_test", 5)
    assert names == [f"tone/{i}" for i in range(5)]
    for row, example in zip(audio, source, strict=True):
        expected = [sample / 32768 for sample in example["audio"][:16_000].tolist()]
        np.testing.assert_array_equal(row[: len(expected)], np.array(expected, np.float32))
        assert not row[len(expected) :].any()
    report = batches[0].report + batches[1].report
    assert (report.num_clips, report.silent) == (5, ("tone/1",))
    assert (report.padded, report.truncated) == (4, 1)
    assert np.concatenate([batch.labels for batch in batches]).tolist() == [0, 1, 2, 3, 4]


def test_limit_draws_without_replacement_by_the_seed():
    source = tones(60)
    names = [read_all(real_set(source, "train", limit=20, seed=seed))[0] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert len(set(names[0])) == 20
    assert read_all(real_set(source, "train", limit=60))[0] == [f"tone/{i}" for i in range(60)]


@pytest.mark.parametrize("normalize", [True, False])
def test_round_trip_is_what_a_model_hears(normalize):
    source = tones(3)
    clips = round_trip_set(source, "test", codec="mu_law", normalize=normalize)
    _, audio, _ = read_all(clips)
    for row, example in zip(audio, source, strict=True):
        codes = encode(example["audio"], codec="mu_law", normalize=normalize).tolist()
        codes += [128] * (16_000 - len(codes))  # Silence.
        heard = decode(np.array(codes), codec="mu_law")
        np.testing.assert_array_equal(row, (heard / 32768).astype(np.float32))
        peak = np.abs(row).max()
        # The largest step of the code is 1/32 of the full scale.
        assert (peak > 31 / 32) if normalize else abs(peak - 12_000 / 32768) < 0.05


def test_noise_is_white_and_follows_from_seed_and_number():
    names, audio, _ = read_all(noise_set(6, seed=3), batch_size=4)
    again = read_all(noise_set(5, seed=3), batch_size=5)[1]
    np.testing.assert_array_equal(audio[:5], again)
    assert not np.array_equal(audio[0], read_all(noise_set(1, seed=4))[1][0])
    assert len(set(names)) == 6
    power = np.abs(np.fft.rfft(audio)) ** 2
    bands = power[:, 1:8001].reshape(6, 10, 800).mean(axis=(0, 2))
    # The mean of 4,800 exponential numbers varies by 1.4 %: five times that.
    np.testing.assert_allclose(bands / bands.mean(), 1, atol=0.07)


def test_baselines_by_name():
    splits = {"train": tones(30), "test": tones(10, seed=1)}
    options = {"reference": "train", "num_generated": 12, "codec": "mu_law", "normalize": True}
    sets = baseline_sets(["noise", "train", "test", "round_trip", "test"], splits, **options)
    assert [(clips.name, clips.num_clips) for clips in sets] == [
        ("noise", 12),
        ("real_train", 12),
        ("real_test", 10),
        ("round_trip", 10),
    ]
    relations = [clips.relation for clips in sets]
    assert relations == ["apart", "part", "apart", "apart"]
    assert sets[1].title == "real, train (in the reference)"
    (held_out,) = baseline_sets(["held_out_train"], splits, **options | {"num_generated": 99})
    assert (held_out.name, held_out.num_clips) == ("real_train_held_out", 15)  # At most half.
    assert held_out.relation == "left_out"
    test = baseline_sets(["test", "train"], splits, **options | {"reference": "test"})
    assert [clips.relation for clips in test] == ["part", "apart"]


@pytest.mark.parametrize(
    ("name", "splits", "reference", "message"),
    [
        ("nois", {"test": []}, "test", "unknown baseline 'nois'; known: test, train, held_out_tr"),
        ("test", {}, None, "baseline 'test' is of a data set, and the reference is none"),
        ("held_out_train", {"train": []}, "test", "leaves clips out of a reference of train clips"),
    ],
)
def test_baselines_that_cannot_be(name, splits, reference, message):
    with pytest.raises(ValueError, match=message):
        baseline_sets(
            [name],
            splits,
            reference=reference,
            num_generated=12,
            codec="mu_law",
            normalize=True,
        )
