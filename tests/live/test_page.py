"""The page in a real browser."""

import io
import re
import shutil
import time
import wave

import numpy as np
import pytest

from poolformer_jax.audio.wav import format_wav
from tests.live.listeners import RATE, Tone, serving

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-sync"]
FLAGS += ["--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream"]
FLAGS += ["--use-fake-device-for-media-stream"]


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture
def speaker():
    return Tone()


@pytest.fixture
def open_page(browser, speaker):
    """A function that opens one more tab; it fails if a tab had an error."""
    with serving(speaker) as port:
        context = browser.new_context()
        faults = []

        def open_tab():
            page = context.new_page()
            page.on("pageerror", lambda fault: faults.append(fault))
            page.goto(f"http://127.0.0.1:{port}/")
            status_is(page, "Ready")
            return page

        yield open_tab
        context.close()
        assert not faults


def status_is(page, pattern):
    found = page.get_by_role("status").filter(has_text=re.compile(pattern))
    found.wait_for(timeout=20_000)
    return found.inner_text()


def stereo_at_44_1_khz():
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        tone = 8000 * np.sin(2 * np.pi * 1000 * np.arange(22_050) / 44_100)
        file.writeframes(np.stack([tone, tone], axis=1).astype("<i2").tobytes())
    return content.getvalue()


def is_drawn(page, canvas):
    """Whether anything but the ground is on a canvas."""
    return page.evaluate(
        """id => { const c = document.getElementById(id);
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        return d.some((x) => x > 0); }""",
        canvas,
    )


def test_a_clip_is_played_drawn_and_kept(open_page, speaker, tmp_path):
    page = open_page()
    assert not is_drawn(page, "wave")
    page.get_by_label("Class").select_option("two")
    page.get_by_label("Guidance").fill("3")
    page.get_by_label("Temperature").fill("0.7")
    page.get_by_role("button", name="Speak").click()
    status_is(page, "^Done")
    page.get_by_text(re.compile(r"^1\.00 s, first sound after \d\.\d\d s")).wait_for()
    # What is still to be heard can be stopped.
    page.get_by_role("button", name="Stop", exact=True).click()
    assert page.get_by_role("button", name="Stop", exact=True).is_disabled()
    (wish,) = speaker.wishes
    assert (wish.label, wish.guidance, wish.temperature, wish.seconds) == (2, 3.0, 0.7, 1.0)
    assert is_drawn(page, "wave") and is_drawn(page, "spectrogram")
    with page.expect_download() as download:
        page.get_by_text("Save as WAV").click()
    path = tmp_path / "saved.wav"
    download.value.save_as(path)
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnframes()) == (RATE, RATE)
    # It can be heard again, and a second clip replaces it.
    assert page.evaluate("document.getElementById('again').src").startswith("blob:")
    page.get_by_role("button", name="Speak").click()
    status_is(page, "^Done")
    assert len(speaker.wishes) == 2


def test_a_recording_of_any_kind_is_continued(open_page, speaker):
    page, chooser = open_page(), "Recording to continue"
    page.get_by_label(chooser).set_input_files(
        {"name": "word.wav", "mimeType": "audio/wav", "buffer": stereo_at_44_1_khz()}
    )
    page.get_by_text("word.wav, 0.50 s").wait_for()
    page.get_by_role("button", name="Speak").click()
    status_is(page, "^Done")
    page.get_by_text(re.compile(r"^1\.50 s, first")).wait_for()
    prompt = speaker.wishes[0].prompt
    assert np.argmax(np.abs(np.fft.rfft(prompt))) == pytest.approx(500, abs=2)  # Half a second.
    assert np.abs(prompt[1000:7000]).max() == pytest.approx(8000, rel=0.02)
    for name, content, reason in (
        ("notes.txt", b"no sound at all", "notes.txt is no recording that this browser can read"),
        ("long.wav", format_wav(np.zeros(500_000, np.int16), RATE), "has 31.3 s; give at most 30"),
    ):
        page.get_by_label(chooser).set_input_files(
            {"name": name, "mimeType": "audio/wav", "buffer": content}
        )
        status_is(page, reason)
    page.get_by_role("button", name="Speak").click()
    page.get_by_text(re.compile(r"^1\.00 s, first")).wait_for()
    status_is(page, "^Done")
    assert speaker.wishes[1].prompt is None


def test_the_microphone_is_continued(open_page, speaker):
    page, start = open_page(), time.monotonic()
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Stop recording").wait_for()
    page.wait_for_timeout(700)
    page.get_by_role("button", name="Stop recording").click()
    page.get_by_role("button", name="Record", exact=True).wait_for()
    longest = time.monotonic() - start  # A busy machine clicks late, and the recording is longer.
    shown = page.get_by_text(re.compile(r"^Recording, \d+\.\d\d s")).inner_text()
    seconds = float(shown.removeprefix("Recording, ").split()[0])
    assert 0.3 < seconds < longest + 0.1
    page.get_by_role("button", name="Speak").click()
    status_is(page, "^Done")
    assert len(speaker.wishes[0].prompt) == pytest.approx(seconds * RATE, abs=0.01 * RATE)


def test_tabs_take_turns_and_can_stop(open_page, speaker):
    first, second = open_page(), open_page()
    speaker.go.clear()
    for page in (first, second):
        page.get_by_role("button", name="Speak").click()
        assert speaker.begun.wait(20)
    status_is(second, "Waiting: 1 before you")
    first.get_by_role("button", name="Stop", exact=True).click()
    status_is(first, "Stopped")
    speaker.go.set()
    status_is(second, "^Done")


def test_a_server_that_ends_is_noticed(browser, speaker):
    with serving(speaker) as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        status_is(page, "Ready")
        speaker.fault = RuntimeError("no memory")
        page.get_by_role("button", name="Speak").click()
        assert status_is(page, "broke off") == "the clip broke off: no memory"
    page.get_by_role("button", name="Speak").click()
    assert status_is(page, "not answer") == "The server does not answer"
    page.close()
