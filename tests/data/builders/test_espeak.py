import dataclasses
import sys

import numpy as np
import pytest

from poolformer_jax.data.builders import espeak
from poolformer_jax.data.builders.digits import MAX_SAMPLES, Digits, plan
from poolformer_jax.data.builders.espeak import Utterance, synthesize
from poolformer_jax.data.source import open_splits

pytest.importorskip("espeakng_loader")

ONE = Utterance(text="one", accent="en-us", voice="f3", rate=150, pitch=50, pitch_range=50, seed=0)


def test_fresh_processes_give_the_same_bytes(tiny_config):
    built = {
        example["name"].decode(): example["audio"] for example in open_splits(tiny_config)["train"]
    }
    # Among the voices are some with noise from the engine's random generator.
    clips = plan(Digits.recipe(tiny_config))["train"]
    assert "Demonic" in {clip.utterance.voice for clip in clips}
    again = synthesize([clip.utterance for clip in clips], max_samples=MAX_SAMPLES)
    for clip, audio in zip(clips, again, strict=True):
        np.testing.assert_array_equal(audio, built[clip.key])


def test_a_long_utterance_is_spoken_faster_and_an_unknown_voice_is_reported():
    bad = dataclasses.replace(ONE, voice="nobody")
    clips = synthesize([ONE, bad], max_samples=16_000)
    slow = next(clips)
    with pytest.raises(RuntimeError, match="no voice variant 'nobody'"):
        next(clips)
    (fast,) = synthesize([ONE], max_samples=len(slow) - 1)
    assert len(slow) * 0.7 < len(fast) < len(slow)
    # The word fades out in both: a truncated one would end loud.
    for clip in (slow, fast):
        assert np.abs(clip[-40:]).max() < 0.1 * np.abs(clip).max()


class Engine(espeak._Engine):
    """Speaks half a second at 150 words a minute, as loud at the end as at the beginning."""

    def __init__(self):
        self.rates = []

    def speak(self, utterance, *, rate):
        self.rates.append(rate)
        return np.full(round(22_050 * 0.5 * 150 / rate), 10_000, np.int16)


@pytest.mark.parametrize(
    ("max_samples", "rates"), [(8_000, [150]), (7_300, [150, 165]), (7_200, [150, 165, 182])]
)
def test_a_word_over_the_limit_is_spoken_faster_not_cut(max_samples, rates):
    engine = Engine()
    clip = espeak._clip(engine, ONE, max_samples)
    assert engine.rates == rates
    assert len(clip) == pytest.approx(8_000 * 150 / rates[-1], abs=1)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"pip install -e '.\[digits\]'"):
        list(synthesize([ONE], max_samples=16_000))
