import numpy as np
import pytest
from scipy.io import wavfile

from poolformer_jax.audio.wav import read_wav, write_wav

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


def test_cut_off_file_is_refused(tmp_path):
    write_wav(tmp_path / "a.wav", PCM, 16_000)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-4])
    with pytest.raises(ValueError, match="cut off: 3 of 5 samples"):
        read_wav(tmp_path / "a.wav")
