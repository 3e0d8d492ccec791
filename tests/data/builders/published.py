"""Small archives in the published layouts, made of WAV files with recognisable content."""

import io
import pathlib
import tarfile
import wave
import zipfile

import numpy as np

from poolformer_jax.data.builders.features import DIGIT_WORDS

SPEAKERS = ("0a2b400e", "3bb68054")


def pcm_of(name, samples=200):
    """The samples of a clip, which follow from its name."""
    rng = np.random.default_rng(list(name.encode()))
    return rng.integers(-(2**15), 2**15, samples).astype(np.int16)


def wav(pcm, *, rate=16_000, channels=1, width=2):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(pcm).tobytes())
    return buffer.getvalue()


def wavs(names, *, rate=16_000, samples=200):
    return {name: wav(pcm_of(name, samples), rate=rate) for name in names}


def sc09_files(takes=4, samples=200):
    """Takes 0 and 1 of every word and speaker are listed for validation and test."""
    names = [
        f"{word}/{speaker}_nohash_{take}.wav"
        for word in DIGIT_WORDS
        for speaker in SPEAKERS
        for take in range(takes)
    ]
    files = dict(wavs(names, samples=samples))
    for take, file in enumerate(("validation_list.txt", "testing_list.txt")):
        listed = [name for name in names if name.endswith(f"_{take}.wav")]
        files[file] = ("\n".join(listed) + "\n").encode()
    return files


def speech_commands_files():
    """The raw data set: more words, lists that name them too, noise, and texts."""
    files = sc09_files()
    files |= wavs(["bed/00176480_nohash_0.wav", "bed/00176480_nohash_1.wav"])
    files |= wavs(["_background_noise_/white_noise.wav"], samples=5_000)
    files["_background_noise_/README.md"] = files["LICENSE"] = files["README.md"] = b"text"
    files["validation_list.txt"] = b"bed/00176480_nohash_0.wav\n" + files["validation_list.txt"]
    files["testing_list.txt"] += b"bed/00176480_nohash_1.wav\n"
    return files


def youtubemix_files(count=241, samples=200):
    return wavs([f"out{i:03d}.wav" for i in range(count)], samples=samples)


def fsdd_files(speakers=("theo",), takes=range(50), samples=100):
    names = [
        f"recordings/{digit}_{speaker}_{take}.wav"
        for digit in range(10)
        for speaker in speakers
        for take in takes
    ]
    return wavs(names, rate=8_000, samples=samples)


def write_zip(path, files, root=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(root + name, content)
    return path


def write_tar(path, files, root=""):
    with tarfile.open(path, f"w:{'xz' if path.suffix == '.xz' else 'gz'}") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(root + name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def write_folder(path, files, root=""):
    for name, content in files.items():
        target = pathlib.Path(path) / (root + name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return path
