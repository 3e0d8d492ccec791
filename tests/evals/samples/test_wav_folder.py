import dataclasses
import json
import os
import struct

import numpy as np
import pytest
from scipy.io import wavfile

from poolformer_jax.audio.wav import write_wav
from poolformer_jax.evals.samples.wav_folder import (
    FolderReport,
    hash_files,
    list_wavs,
    read_clips,
)


def names(folder, **arguments):
    return [path.name for path in list_wavs(folder, **arguments)]


def read_all(folder, *, num_samples, **arguments):
    """All batches of a folder as one."""
    batches = list(read_clips(list_wavs(folder), num_samples=num_samples, **arguments))
    report = sum((batch.report for batch in batches), FolderReport())
    return np.concatenate([batch.audio for batch in batches]), report


def tone(rate, frequency, seconds=0.5):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def test_order_is_natural_and_includes_every_wav(tmp_path):
    for name in ("x_10.wav", "x_2.wav", "x_2_b.wav", "B.WAV", "x_02.wav", "real_0.wav"):
        write_wav(tmp_path / name, np.zeros(4, np.int16), 16_000)
    for name in ("notes.txt", "._a.wav"):
        (tmp_path / name).write_text("no audio")
    expected = ["B.WAV", "real_0.wav", "x_02.wav", "x_2.wav", "x_2_b.wav", "x_10.wav"]
    assert names(tmp_path) == expected
    assert names(tmp_path, skip_real=True) == [name for name in expected if "real" not in name]


def test_clips_come_in_batches_as_they_are(tmp_path):
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, (5, 20)).astype(np.int16)
    for index, clip in enumerate(pcm):
        write_wav(tmp_path / f"{index}.wav", clip, 16_000)
    batches = list(read_clips(list_wavs(tmp_path), num_samples=20, batch_size=2))
    assert [batch.names for batch in batches] == [
        ("0.wav", "1.wav"),
        ("2.wav", "3.wav"),
        ("4.wav",),
    ]
    audio = np.concatenate([batch.audio for batch in batches])
    assert audio.dtype == np.float32
    np.testing.assert_array_equal(audio, pcm / 2.0**15)  # 16 bits are exact in float32.


def test_hash_depends_on_names_and_on_every_byte(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"1")
    (tmp_path / "b.wav").write_bytes(b"2")
    before = hash_files(list_wavs(tmp_path))
    assert before == hash_files(list_wavs(tmp_path))
    (tmp_path / "b.wav").write_bytes(b"3")
    changed = hash_files(list_wavs(tmp_path))
    (tmp_path / "b.wav").write_bytes(b"2")
    (tmp_path / "b.wav").rename(tmp_path / "c.wav")
    assert len({before, changed, hash_files(list_wavs(tmp_path))}) == 3


def test_reading_is_lazy(tmp_path):
    write_wav(tmp_path / "0.wav", np.zeros(4, np.int16), 16_000)
    (tmp_path / "1.wav").write_bytes(b"broken")
    batches = read_clips(list_wavs(tmp_path), num_samples=4, batch_size=1)
    assert next(batches).names == ("0.wav",)
    with pytest.raises(ValueError, match=r"1\.wav can't be read"):
        next(batches)


def test_other_lengths_are_padded_or_cut_and_counted(tmp_path):
    for length in (3, 5, 8):
        write_wav(tmp_path / f"{length}.wav", np.arange(1, length + 1, dtype=np.int16), 16_000)
    audio, report = read_all(tmp_path, num_samples=5)
    expected = np.array([[1, 2, 3, 0, 0], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]) / 2**15
    np.testing.assert_array_equal(audio, expected)
    assert (report.num_clips, report.padded, report.truncated) == (3, 1, 1)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, 128, 255], np.uint8), [-1, 0, 127 / 128]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1, 0, 0.5]),
        (np.array([-1.5, 0.0, 0.25], np.float32), [-1.5, 0, 0.25]),
        (np.array([-1.0, 0.0, 0.125], np.float64), [-1, 0, 0.125]),
    ],
    ids=["8_bit", "32_bit", "float32", "float64"],
)
def test_every_encoding_is_read(tmp_path, samples, expected):
    wavfile.write(tmp_path / "a.wav", 16_000, samples)
    audio, _ = read_all(tmp_path, num_samples=3)
    np.testing.assert_array_equal(audio, np.array([expected], np.float32))


def test_24_bit_is_read(tmp_path):
    data = b"".join(value.to_bytes(3, "little", signed=True) for value in (-(2**23), 2**22))
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 42, b"WAVE", b"fmt ", 16, 1, 1, 16_000,
                         48_000, 3, 24, b"data", 6)  # fmt: skip
    (tmp_path / "a.wav").write_bytes(header + data)
    audio, _ = read_all(tmp_path, num_samples=2)
    np.testing.assert_array_equal(audio, [[-1, 0.5]])


def test_silent_and_non_finite_clips_are_kept_and_named(tmp_path):
    clips = {
        "zeros": [0, 0, 0],
        "constant": [0.25, 0.25, 0.25],
        "nan": [0.5, np.nan, -0.5],
        "infinite": [np.inf, -np.inf, 0.5],
        "never_finite": [np.nan, np.nan, np.nan],
        "good": [0.1, 0.2, 0.3],
    }
    for name, clip in clips.items():
        wavfile.write(tmp_path / f"{name}.wav", 16_000, np.array(clip, np.float32))
    audio, report = read_all(tmp_path, num_samples=3, batch_size=4)
    order = sorted(clips)
    expected = np.array([clips[name] for name in order], np.float32)
    np.testing.assert_array_equal(audio, np.where(np.isfinite(expected), expected, 0))
    assert report == FolderReport(
        num_clips=6,
        silent=("constant.wav", "never_finite.wav", "zeros.wav"),
        non_finite=("infinite.wav", "nan.wav", "never_finite.wav"),
    )
    assert json.loads(json.dumps(dataclasses.asdict(report)))["silent"][0] == "constant.wav"


def test_sample_beyond_float32_is_infinite(tmp_path):
    wavfile.write(tmp_path / "a.wav", 16_000, np.array([1e300, 0.5]))
    audio, report = read_all(tmp_path, num_samples=2)
    np.testing.assert_array_equal(audio, [[0, 0.5]])
    assert report.non_finite == ("a.wav",)


@pytest.mark.parametrize(
    ("rate", "channels", "message"),
    [
        (22_050, 1, "has 1 channel at 22050 Hz, expected 1 at 16000 Hz; pass --resample"),
        (16_000, 2, "has 2 channels at 16000 Hz, expected 1 at 16000 Hz; pass --resample"),
    ],
)
def test_other_formats_need_to_be_resampled(tmp_path, rate, channels, message):
    wavfile.write(tmp_path / "a.wav", rate, np.zeros((8, channels), np.int16)[:, :channels])
    with pytest.raises(ValueError, match=rf"a\.wav {message}"):
        read_all(tmp_path, num_samples=8)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampled_tone_is_the_tone(tmp_path, rate):
    wavfile.write(tmp_path / "a.wav", rate, tone(rate, 440).astype(np.float32))
    audio, report = read_all(tmp_path, num_samples=8_000, resample=True)
    # The filter's passband ripple is 1 %; its ends, where the tone begins, ring.
    inner = slice(200, -200)
    np.testing.assert_allclose(audio[0, inner], tone(16_000, 440)[inner], atol=0.01)
    assert report.resampled == 1


def test_channels_are_averaged(tmp_path):
    stereo = np.array([[0.5, 0.25], [1.0, -1.0], [0.0, 0.5]], np.float32)
    wavfile.write(tmp_path / "a.wav", 16_000, stereo)
    wavfile.write(tmp_path / "cancels.wav", 16_000, stereo[:, :1] * np.float32([1, -1]))
    audio, report = read_all(tmp_path, num_samples=3, resample=True)
    np.testing.assert_array_equal(audio, [[0.375, 0, 0.25], [0, 0, 0]])
    assert report.resampled == 2
    assert report.silent == ("cancels.wav",)


def test_tags_are_no_fault(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([2**14, 0], np.int16), 16_000)
    content = (tmp_path / "a.wav").read_bytes() + b"id3 \x04\x00\x00\x00tags"
    size = struct.pack("<I", len(content) - 8)
    (tmp_path / "a.wav").write_bytes(content[:4] + size + content[8:])
    audio, _ = read_all(tmp_path, num_samples=2)
    np.testing.assert_array_equal(audio, [[0.5, 0]])


def test_no_cut_passes(tmp_path):
    path = tmp_path / "a.wav"
    write_wav(path, np.arange(20, dtype=np.int16), 16_000)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.wav (can't be read as a WAV file|has no)"):
            read_all(tmp_path, num_samples=20)


@pytest.mark.parametrize("content", [b"no audio at all", b"RIFF\x04\0\0\0WAVE", bytes(60)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.wav can't be read as a WAV file"):
        read_all(tmp_path, num_samples=4)


@pytest.mark.parametrize(
    ("place", "values", "fault"),
    [
        (40, [20], r"has more than its header says: 20 bytes follow"),  # Half of the samples.
        (24, [2_000_000, 4_000_000], "is sampled at 2000000 Hz"),
        (24, [1, 2], "is sampled at 1 Hz"),
        (24, [0, 0], "is sampled at 0 Hz"),
    ],
)
def test_a_header_that_lies_is_found_out(tmp_path, place, values, fault):
    path = tmp_path / "a.wav"
    write_wav(path, np.arange(20, dtype=np.int16), 16_000)
    content = bytearray(path.read_bytes())
    content[place : place + 4 * len(values)] = struct.pack(f"<{len(values)}I", *values)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.wav can't be read as a WAV file \({fault}"):
        read_all(tmp_path, num_samples=20, resample=True)


def test_what_would_take_the_memory_or_never_end_is_refused(tmp_path):
    with open(tmp_path / "a.wav", "wb") as file:
        file.truncate(1 << 30)  # Takes no room on the disk.
    with pytest.raises(ValueError, match=r"a\.wav can't be read .*more than 268,435,456 bytes"):
        read_all(tmp_path, num_samples=4)
    os.mkfifo(tmp_path / "b.wav")
    with pytest.raises(ValueError, match=r"b\.wav is not a regular file"):
        list_wavs(tmp_path)


def test_names_that_would_garble_the_terminal_are_refused(tmp_path):
    (tmp_path / "a\n\x1b[2Kdone.wav").touch()
    with pytest.raises(ValueError, match=r"holds 'a\\n\\x1b\[2Kdone\.wav'; rename it"):
        list_wavs(tmp_path)


def test_empty_clip_is_refused(tmp_path):
    write_wav(tmp_path / "a.wav", np.zeros(0, np.int16), 16_000)
    with pytest.raises(ValueError, match=r"a\.wav has no samples"):
        read_all(tmp_path, num_samples=4)


def test_folders_without_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no WAV file; clips must lie directly in it"):
        list_wavs(tmp_path)
    write_wav(tmp_path / "real_0.wav", np.zeros(4, np.int16), 16_000)
    with pytest.raises(ValueError, match="no WAV file that doesn't start with real_"):
        list_wavs(tmp_path, skip_real=True)
    with pytest.raises(ValueError, match="is not a folder"):
        list_wavs(tmp_path / "missing")
    with pytest.raises(ValueError, match="is not a folder"):
        list_wavs(tmp_path / "real_0.wav")
