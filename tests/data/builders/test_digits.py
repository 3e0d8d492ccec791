import collections
import hashlib
import platform
import sys

import numpy as np
import pytest

from poolformer_jax.data.builders.digits import MAX_SAMPLES, Digits, DigitsConfig, plan
from poolformer_jax.data.builders.features import DIGIT_WORDS
from poolformer_jax.data.datasets import DATASETS
from poolformer_jax.data.source import SPLITS, open_splits

pytest.importorskip("espeakng_loader")

PINNED_SHA256 = "576467fbc776889a6be8495fb71d102a69eb6406090df41d9524b7ff99f83ef0"


def test_full_recipe_has_the_promised_clips_and_no_voice_in_two_splits():
    clips = plan(DigitsConfig())
    assert {split: len(clips[split]) for split in clips} == {
        "train": 8_400,
        "validation": 1_000,
        "test": 1_000,
    }
    for split in SPLITS:
        labels = collections.Counter(clip.label for clip in clips[split])
        assert labels == dict.fromkeys(range(10), len(clips[split]) // 10)
        assert len({clip.key for clip in clips[split]}) == len(clips[split])
    voices = [{clip.utterance.voice for clip in part} for part in clips.values()]
    assert [len(v) for v in voices] == [84, 10, 10]
    assert len(set.union(*voices)) == 104


def test_named_speakers_are_in_all_splits_with_takes_of_their_own():
    clips = plan(DigitsConfig(speakers=("m3", "f2"), takes=20, accents=("en-us",)))
    assert [len(clips[split]) for split in SPLITS] == [320, 40, 40]
    for split in SPLITS:
        said = {(clip.utterance.voice, clip.label) for clip in clips[split]}
        assert said == {(voice, label) for voice in ("m3", "f2") for label in range(10)}
    keys = [clip.key for split in SPLITS for clip in clips[split]]
    assert len({*keys}) == 400
    assert {clip.utterance.accent for clip in clips["train"]} == {"en-us"}


def test_short_words_end_in_silence(tmp_path):
    config = DigitsConfig(**DATASETS["digits_steady"].options | {"takes": 20})
    builder = Digits(data_dir=str(tmp_path), config=config)
    clips = plan(config)["test"]
    spoken = [example["audio"] for _, example in builder._generate_examples(clips)]
    # At this rate every word is shorter.
    assert {len(pcm) for pcm in spoken} == {config.min_samples}
    ends = [np.flatnonzero(pcm)[-1] + 1 for pcm in spoken]
    assert min(ends) > 1_900 and 4_200 < max(ends) < config.min_samples


def test_half_of_the_takes_at_many_pitches_have_a_twin_in_training():
    clips = plan(DigitsConfig(**DATASETS["digits_pitches"].options))
    assert [len(clips[split]) for split in SPLITS] == [6_400, 800, 800]
    said = {split: [clip.utterance for clip in clips[split]] for split in SPLITS}
    assert {one.pitch for one in said["train"]} == {*range(30, 71)}
    assert {one.pitch_range for one in said["train"]} == {*range(40, 61)}
    assert not {*said["train"]} & {*said["validation"], *said["test"]}
    twins = {(one.text, one.pitch, one.pitch_range) for one in said["train"]}
    share = np.mean([(one.text, one.pitch, one.pitch_range) in twins for one in said["test"]])
    assert 0.45 < share < 0.55


def test_plan_depends_on_the_seed_alone():
    one, again, other = (plan(DigitsConfig(seed=seed, takes=1)) for seed in (1, 1, 2))
    assert one == again
    assert one["test"] != other["test"]


def test_config_name_tells_recipes_apart():
    configs = [DigitsConfig(), DigitsConfig(seed=1), DigitsConfig(takes=2)]
    configs += [DigitsConfig(voices=(1, 1, 1)), DigitsConfig(speakers=("m3",))]
    configs.append(DigitsConfig(speakers=("m3",), accents=("en-us",)))
    configs += [DigitsConfig(rates=(280, 280)), DigitsConfig(min_samples=4_480)]
    assert len({config.name for config in configs}) == 8


def test_built_examples_have_the_pinned_hash(tiny_config):
    # A new hash means that the clips of the full data set changed as well: raise the version of
    # `Digits`.
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("another platform's mathematics library may round otherwise")
    digest = hashlib.sha256()
    for split in SPLITS:
        for example in open_splits(tiny_config)[split]:
            length = len(example["audio"])
            padded = np.pad(example["audio"], (0, MAX_SAMPLES - length))
            digest.update(padded.astype("<i2").tobytes() + example["speaker"])
            digest.update(bytes([example["label"]]) + length.to_bytes(4, "little"))
    assert digest.hexdigest() == PINNED_SHA256


def test_built_clips_are_as_planned(tiny_config):
    speakers = []
    for split, count in zip(SPLITS, (80, 20, 20), strict=True):
        source = open_splits(tiny_config)[split]
        assert len(source) == count
        speakers.append({example["speaker"] for example in source})
        for example in source:
            speech = example["audio"]
            assert speech.dtype == np.int16
            # Speech from the first sample to the last, as -60 dB of its peak counts for speech, at
            # 16 bits rounded to 1 at least.
            threshold = np.floor(1e-3 * np.abs(speech.astype(int)).max())
            assert min(abs(int(speech[0])), abs(int(speech[-1]))) >= threshold
            assert 0.1 * MAX_SAMPLES < len(speech) <= MAX_SAMPLES
            assert np.abs(speech.astype(int)).max() > 1_000
            word = example["name"].decode().split("/")[1]
            assert DIGIT_WORDS[example["label"]] == word
    assert len(set.union(*speakers)) == sum(map(len, speakers)) == 12
