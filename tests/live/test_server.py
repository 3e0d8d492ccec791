"""The server of the page: clips as they are made, turns, and what it refuses."""

import json
import threading
import time

import numpy as np
import pytest

from poolformer_jax.audio.wav import format_wav
from poolformer_jax.live.server import MAX_BODY
from tests.live.listeners import BLOCK, RATE, Tone, ask, clip_of, lines_of, serving, whole_of

PROMPT = np.arange(-500, 500, dtype=np.int16)
LONG = np.zeros(500_000, np.int16)


@pytest.fixture
def speaker():
    return Tone()


@pytest.fixture
def port(speaker):
    with serving(speaker) as port:
        yield port


def test_page_holds_all_that_it_needs(port):
    answer = ask(port, "GET", "/")
    text = answer.read().decode()
    assert answer.status == 200 and "/* style */" not in text and "/* script */" not in text
    assert "--accent" in text and "decodeAudioData" in text
    assert "http://" not in text and "https://" not in text
    about = json.loads(ask(port, "GET", "/about").read())
    assert (about["sample_rate"], about["names"]) == (RATE, ["zero", "one", "two"])


def test_a_clip_comes_in_blocks_while_it_is_made(port, speaker):
    speaker.go.clear()
    answer = ask(port, "POST", "/speak?seconds=0.1&label=2&temperature=0.5&guidance=2&seed=7", b"")
    threading.Timer(0.2, speaker.go.set).start()
    lines = list(lines_of(answer))
    assert lines[0] == {"waiting": 0} and lines[-1] == {"done": True}
    blocks = [line["samples"] for line in lines[1:-1]]
    assert [len(block) for block in blocks] == [BLOCK, BLOCK]
    (wish,) = speaker.wishes
    assert (wish.label, wish.temperature, wish.guidance, wish.seed) == (2, 0.5, 2.0, 7)
    assert np.argmax(np.abs(np.fft.rfft(np.concatenate(blocks)))) * 10 == 3 * 440


def test_a_recording_is_continued(port):
    clip = clip_of(port, "seconds=0.1", format_wav(PROMPT, RATE))
    np.testing.assert_array_equal(clip[: len(PROMPT)], PROMPT)
    assert len(clip) == len(PROMPT) + 0.1 * RATE


@pytest.mark.parametrize(
    ("query", "body", "status", "reason"),
    [
        ("", b"", 400, "seconds is missing"),
        ("seconds=loud", b"", 400, "seconds 'loud' is no number"),
        ("seconds=nan", b"", 400, "seconds 'nan' is no number"),
        ("seconds=1e9", b"", 400, "seconds 1e+09 must be from 0.05 to 30"),
        ("seconds=1&temperature=-1", b"", 400, "temperature -1 must be from 0 to 2"),
        ("seconds=1&label=-1", b"", 400, "label '-1' is no whole number from 0 on"),
        ("seconds=1&label=3", b"", 400, "label 3 must be below 3"),
        ("seconds=1&volume=3", b"", 400, "volume is unknown; known: seconds, label,"),
        ("seconds=1", b"Dear model, please", 400, "the recording is not a PCM WAV file"),
        (
            "seconds=1",
            format_wav(PROMPT, 44_100),
            400,
            "has 44100 Hz; give 16-bit mono PCM at",
        ),
        ("seconds=1", format_wav(PROMPT[:0], RATE), 400, "the recording has 0 s; give at"),
        ("seconds=1", format_wav(PROMPT, RATE)[:-3], 400, "the recording is cut off"),
        ("seconds=1", format_wav(LONG, RATE), 400, "has 31.25 s; give at most 30 s"),
        ("seconds=1", bytes(MAX_BODY + 1), 413, "the recording has 4.0 MB; give at most 4 MB"),
    ],
)
def test_what_cannot_be_done_is_said(port, speaker, query, body, status, reason):
    answer = ask(port, "POST", f"/speak?{query}", body)
    assert answer.status == status and reason in json.loads(answer.read())["error"]
    assert not speaker.wishes


def test_other_places_and_other_origins_get_nothing(port, speaker):
    assert ask(port, "GET", "/etc/passwd").status == 404
    assert ask(port, "POST", "/elsewhere", b"").status == 404
    for header in ({"Host": "example.org"}, {"Origin": "http://example.org"}):
        for method, path in (("GET", "/about"), ("POST", "/speak?seconds=1")):
            assert ask(port, method, path, b"", **header).status == 403
    for host in (f"localhost:{port}", "127.0.0.1", "localhost:9"):  # The latter by a tunnel.
        assert ask(port, "GET", "/about", Host=host, Origin=f"http://{host}").status == 200
    odd = {"Content-Length": "9" * 5000}
    assert ask(port, "POST", "/speak?seconds=1", **odd).status == 411
    assert not speaker.wishes


@pytest.mark.parametrize("fault", [FloatingPointError("not finite"), RuntimeError("no memory")])
def test_a_clip_that_breaks_off_says_why(port, speaker, fault):
    speaker.fault = fault
    *_, last = lines_of(ask(port, "POST", "/speak?seconds=1", b""))
    assert last == {"error": f"the clip broke off: {fault}"}
    speaker.fault = None
    assert len(clip_of(port, "seconds=0.1")) == 0.1 * RATE


def test_listeners_take_turns_and_who_leaves_loses_the_place(port, speaker):
    speaker.go.clear()
    answers = []
    for number in range(4):  # In this order.
        answers.append(ask(port, "POST", f"/speak?seconds=0.1&label={number % 3}", b""))
        assert speaker.begun.wait(20)
        if number:
            assert json.loads(answers[-1].readline()) == {"waiting": number}
    answers[1].close()
    # Once the second has been found to have left, the third is the next.
    deadline = time.monotonic() + 20
    while json.loads(answers[2].readline())["waiting"] != 1:
        assert time.monotonic() < deadline
    speaker.go.set()
    for answer, label in ((answers[0], 0), (answers[2], 2), (answers[3], 0)):
        pitch = 10 * np.argmax(np.abs(np.fft.rfft(whole_of(answer))))
        assert pitch == (1 + label) * 440
