"""16-bit mono WAV files."""

from __future__ import annotations

import os
import wave

import numpy as np
from jaxtyping import Int16


def write_wav(path: str | os.PathLike[str], pcm: Int16[np.ndarray, " t"], sample_rate: int) -> None:
    """Writes 16-bit mono PCM; `sample_rate` is in Hz."""
    with wave.open(os.fspath(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm.astype("<i2").tobytes())


def read_wav(path: str | os.PathLike[str]) -> tuple[Int16[np.ndarray, " t"], int]:
    """Reads 16-bit mono PCM.

    Returns:
      (samples, sample rate in Hz).

    Raises:
      ValueError: If the file is no PCM WAV file, not mono, not 16 bit, or cut off.
    """
    path = os.fspath(path)
    fix = f"; convert it with: ffmpeg -i {path} -ac 1 -c:a pcm_s16le OUT.wav"
    try:
        with wave.open(path, "rb") as file:
            channels, width, rate, frames = file.getparams()[:4]
            if channels != 1:
                raise ValueError(f"{path} has {channels} channels, expected 1 (mono){fix}")
            if width != 2:
                raise ValueError(f"{path} has {8 * width}-bit samples, expected 16-bit{fix}")
            data = file.readframes(frames)
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{path} is not a PCM WAV file ({error or 'cut off header'}){fix}"
        ) from error
    if len(data) != 2 * frames:
        raise ValueError(f"{path} is cut off: {len(data) // 2} of {frames} samples; copy it again")
    return np.frombuffer(data, "<i2").astype(np.int16), rate
