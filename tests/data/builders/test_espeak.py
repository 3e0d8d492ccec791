import sys

import numpy as np
import pytest

from poolformer_jax.data.builders.digits import TINY, plan
from poolformer_jax.data.builders.espeak import Utterance, synthesize

pytest.importorskip("espeakng_loader")

ONE = Utterance(text="one", accent="en-us", voice="f3", rate=150, pitch=50, pitch_range=50, seed=0)


def test_fresh_processes_give_the_same_bytes():
    # The first voice, and one with noise from the engine's random generator.
    utterances = [
        clip.utterance
        for clip in plan(TINY)["train"]
        if clip.utterance.voice in ("Alex", "Demonic")
    ]
    assert len(utterances) == 20
    one, other = (list(synthesize(utterances, max_samples=16_000)) for _ in range(2))
    for clip, again in zip(one, other, strict=True):
        np.testing.assert_array_equal(clip, again)


def test_a_long_utterance_is_spoken_faster_not_truncated():
    (slow,) = synthesize([ONE], max_samples=16_000)
    (fast,) = synthesize([ONE], max_samples=len(slow) - 1)
    assert len(slow) * 0.7 < len(fast) < len(slow)
    # The word fades out in both: a truncated one would end loud.
    for clip in (slow, fast):
        assert np.abs(clip[-40:]).max() < 0.1 * np.abs(clip).max()


def test_an_unknown_voice_is_reported():
    bad = Utterance(**{**vars(ONE), "voice": "nobody"})
    with pytest.raises(RuntimeError, match="no voice variant 'nobody'"):
        list(synthesize([ONE, bad], max_samples=16_000))


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r"pip install -e '.\[digits\]'"):
        list(synthesize([ONE], max_samples=16_000))
