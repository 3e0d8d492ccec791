import contextlib
import os
import struct

import numpy as np
import pytest
from scipy.io import wavfile

from poolformer_jax.audio.wav import format_wav, parse_wav, read_wav, write_wav

PCM = np.array([0, 1, -1, 2**15 - 1, -(2**15)], np.int16)


def test_round_trip(tmp_path):
    write_wav(tmp_path / "a.wav", PCM, 16_000)
    pcm, rate = read_wav(tmp_path / "a.wav")
    np.testing.assert_array_equal(pcm, PCM)
    assert rate == 16_000


def test_scipy_reads_what_is_written(tmp_path):
    write_wav(tmp_path / "a.wav", PCM, 8_000)
    rate, pcm = wavfile.read(tmp_path / "a.wav")
    np.testing.assert_array_equal(pcm, PCM)
    assert rate == 8_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((4, 2), np.int16), "2 channels, expected 1"),
        (np.zeros(4, np.uint8), "8-bit samples, expected 16-bit"),
        (np.zeros(4, np.int32), "32-bit samples, expected 16-bit"),
        (np.zeros(4, np.float32), "not a PCM WAV file"),
    ],
)
def test_other_formats_are_refused(tmp_path, data, message):
    wavfile.write(tmp_path / "a.wav", 16_000, data)
    with pytest.raises(ValueError, match=message):
        read_wav(tmp_path / "a.wav")


@pytest.mark.parametrize("content", [b"", b"no audio at all", b"RIFF"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match="not a PCM WAV file"):
        read_wav(tmp_path / "a.wav")


def chunk(name, content, size=None):
    return name + struct.pack("<I", len(content) if size is None else size) + content


FORMAT = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
EXTENSIBLE = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16_000, 32_000, 2, 16, 22, 16, 4)
PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")
SAMPLES = PCM.tobytes()


def wav_of(*chunks):
    content = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(b"fmt ", FORMAT), chunk(b"data", SAMPLES)],
        [chunk(b"LIST", b"odd") + b"\0", chunk(b"fmt ", FORMAT), chunk(b"data", SAMPLES)],
        [chunk(b"fmt ", FORMAT), chunk(b"data", SAMPLES), chunk(b"id3 ", b"tag")],
        [chunk(b"fmt ", FORMAT), chunk(b"data", SAMPLES), bytes(100)],  # Filled up to a block.
        [chunk(b"fmt ", EXTENSIBLE + PCM_GUID), chunk(b"data", SAMPLES)],
    ],
)
def test_every_sample_of_a_good_header_is_read(chunks):
    pcm, rate = parse_wav(wav_of(*chunks))
    np.testing.assert_array_equal(pcm, PCM)
    assert rate == 16_000


@pytest.mark.parametrize(
    ("chunks", "fault"),
    [
        ([chunk(b"fmt ", FORMAT), chunk(b"data", SAMPLES, 2**32 - 1)], "cut off: 5 of 2147483648"),
        ([chunk(b"fmt ", FORMAT, 2**31), chunk(b"data", SAMPLES)], "cut off header"),
        ([chunk(b"fmt ", FORMAT, 2), chunk(b"data", SAMPLES)], "cut off header"),
        ([chunk(b"fmt ", FORMAT), chunk(b"data", SAMPLES, 4)], "more than its header .* 6 bytes"),
        ([chunk(b"fmt ", FORMAT), chunk(b"data", SAMPLES, 0)], "more than its header .* 10 bytes"),
        ([chunk(b"fmt ", FORMAT), *[chunk(b"data", SAMPLES)] * 2], "more than its header"),
        ([chunk(b"fmt ", FORMAT), chunk(b"data", SAMPLES), chunk(b"id3 ", b"", 9)], "more than"),
        ([chunk(b"fmt ", FORMAT), chunk(b"data", SAMPLES[:-1])], "cut off: 4 of 5 samples"),
        ([chunk(b"data", SAMPLES)], "cut off header"),
        ([chunk(b"fmt ", FORMAT)], "cut off header"),
        ([chunk(b"fmt ", FORMAT[:4] + bytes(4) + FORMAT[8:]), chunk(b"data", SAMPLES)], "at 0 Hz"),
        ([chunk(b"fmt ", FORMAT[:2] + bytes(2) + FORMAT[4:]), chunk(b"data", SAMPLES)], "0 chann"),
        ([chunk(b"fmt ", EXTENSIBLE + bytes(16)), chunk(b"data", SAMPLES)], "not a PCM WAV file"),
    ],
)
def test_a_header_that_lies_is_found_out(chunks, fault):
    with pytest.raises(ValueError, match=fault):
        parse_wav(wav_of(*chunks))


def test_mutated_files_end_in_one_kind_of_error():
    chunks = chunk(b"LIST", b"tag!"), chunk(b"fmt ", FORMAT), chunk(b"data", SAMPLES)
    whole = wav_of(*chunks)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"not a PCM WAV file|cut off"):
            parse_wav(whole[:length])
    rng = np.random.default_rng(0)
    for _ in range(1_000):
        content = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 4)):
            content[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        with contextlib.suppress(ValueError):
            assert len(parse_wav(bytes(content))[0]) == len(PCM)  # Never fewer.


def test_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"a\.wav is not a regular file"):
        read_wav(tmp_path / "a.wav")


def test_cut_off_file_is_refused(tmp_path):
    write_wav(tmp_path / "a.wav", PCM, 16_000)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-4])
    with pytest.raises(ValueError, match="cut off: 3 of 5 samples"):
        read_wav(tmp_path / "a.wav")


def test_what_common_programs_put_behind_the_samples():
    plain = format_wav(np.arange(5, dtype=np.int16), 16_000)
    for rest in (b"TAG" + bytes(125), b"LIST" + (500).to_bytes(4, "little") + b"cut off", bytes(3)):
        assert parse_wav(plain + rest)[0].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="has more than its header says: 10 bytes"):
        parse_wav(plain + bytes(range(1, 11)))
