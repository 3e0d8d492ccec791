"""16-bit mono WAV files."""

from __future__ import annotations

import io
import os
import pathlib
import wave

import numpy as np
from jaxtyping import Int16

from poolformer_jax.files import write_whole


def write_wav(path: str | os.PathLike[str], pcm: Int16[np.ndarray, " t"], sample_rate: int) -> None:
    """Writes 16-bit mono PCM, whole or not at all; `sample_rate` is in Hz."""
    write_whole(path, format_wav(pcm, sample_rate))


def format_wav(pcm: Int16[np.ndarray, " t"], sample_rate: int) -> bytes:
    """The content of such a file."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm.astype("<i2").tobytes())
    return content.getvalue()


def read_wav(path: str | os.PathLike[str]) -> tuple[Int16[np.ndarray, " t"], int]:
    """Reads a file of 16-bit mono PCM.

    Returns:
      (samples, sample rate in Hz).

    Raises:
      ValueError: If the file is no PCM WAV file, not mono, not 16 bit, or cut off.
    """
    try:
        return parse_wav(pathlib.Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} {error}; if it is whole, convert it with: "
            f"ffmpeg -i {path} -ac 1 -c:a pcm_s16le OUT.wav"
        ) from error


def parse_wav(content: bytes) -> tuple[Int16[np.ndarray, " t"], int]:
    """Reads the content of a file of 16-bit mono PCM.

    The extensible header, which some programs write for plain PCM, needs Python 3.12.

    Returns:
      (samples, sample rate in Hz).

    Raises:
      ValueError: As `read_wav`; the message is what is wrong with the file, to follow its name.
    """
    try:
        with wave.open(io.BytesIO(content), "rb") as file:
            channels, width, rate, frames = file.getparams()[:4]
            if channels != 1:
                raise ValueError(f"has {channels} channels, expected 1 (mono)")
            if width != 2:
                raise ValueError(f"has {8 * width}-bit samples, expected 16-bit")
            data = file.readframes(frames)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"is not a PCM WAV file ({str(error) or 'cut off header'})") from error
    if len(data) != 2 * frames:
        raise ValueError(f"is cut off: {len(data) // 2} of {frames} samples")
    return np.frombuffer(data, "<i2").astype(np.int16), rate
