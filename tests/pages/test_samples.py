"""The page of a folder of clips plays some of them, from the least likely to the most likely."""

import math

import numpy as np
import pytest

from poolformer_jax.pages.samples import write_sample_page
from poolformer_jax.sampling.folder import SampleFolder, make_row

SETTINGS = {"seed": 7, "temperature": 1.0}


@pytest.fixture
def folder(tmp_path):
    folder = SampleFolder(tmp_path, SETTINGS, length=20, sample_rate=16_000)
    folder.start()
    return folder


def add(folder, clip, *, bits, length=20):
    pcm = np.random.default_rng(clip).integers(-(2**15), 2**15, length).astype(np.int16)
    log_probs = np.full(20, -bits * math.log(2))
    row = make_row(clip, seed=7, label=None, log_probs=log_probs)
    folder.add(row, pcm)
    return row


def test_page_plays_clips_from_the_least_to_the_most_likely(folder, monkeypatch):
    monkeypatch.setattr("poolformer_jax.pages.samples.MAX_CLIPS", 3)
    for clip in range(7):
        add(folder, clip, bits=3.0 - 0.1 * clip)
    page = write_sample_page(folder.folder, folder.finish(7), SETTINGS)
    text = page.read_text(encoding="utf-8")
    assert text.count("<audio") == 3
    assert "3 of 7 clips" in text
    places = [text.index(f"sample_0000{clip}") for clip in (0, 3, 6)]
    assert places == sorted(places)
    assert "3.000 bits" in text and "2.400 bits" in text
    assert "Temperature" in text


def test_long_clips_stay_in_their_files(folder):
    row = add(folder, 0, bits=2.0, length=20 * 16_000)
    text = write_sample_page(folder.folder, [row], SETTINGS).read_text(encoding="utf-8")
    assert "src='sample_00000.wav'" in text and "audio/wav" not in text
