"""16-bit mono WAV files."""

from __future__ import annotations

import io
import os
import re
import struct
import wave

import numpy as np
from jaxtyping import Int16

from poolformer_jax.buckets import as_path
from poolformer_jax.files import check_regular, plain, write_whole

_FORMAT = struct.Struct("<HHIIHH")  # Tag, channels, rate, bytes per second and per frame, bits.
_PCM, _EXTENSIBLE = 1, 0xFFFE
_PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")


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
      ValueError: If the file is no PCM WAV file, not mono, not 16 bit, cut off, or holds more than
        its header declares.
    """
    check_regular(path)
    try:
        return parse_wav(as_path(path).read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{plain(path)} {error}; if it is whole, convert it with: "
            f"ffmpeg -i {plain(path)} -ac 1 -c:a pcm_s16le OUT.wav"
        ) from error


def parse_wav(content: bytes) -> tuple[Int16[np.ndarray, " t"], int]:
    """Reads the content of a file of 16-bit mono PCM, also with the extensible header.

    Returns:
      (samples, sample rate in Hz).

    Raises:
      ValueError: As `read_wav`; the message is what is wrong with the file, to follow its name.
    """
    chunks = find_chunks(content)
    if b"fmt " not in chunks or b"data" not in chunks or chunks[b"fmt "][1] < _FORMAT.size:
        raise ValueError("is not a PCM WAV file (cut off header)")
    place, size = chunks[b"fmt "]
    tag, channels, rate, _, _, bits = _FORMAT.unpack_from(content, place)
    if tag == _EXTENSIBLE and content[place + 24 : place + min(size, 40)] == _PCM_GUID:
        tag = _PCM
    if tag != _PCM:
        raise ValueError(f"is not a PCM WAV file (format {tag})")
    if channels != 1:
        raise ValueError(f"has {channels} channels, expected 1 (mono)")
    if bits != 16:
        raise ValueError(f"has {bits}-bit samples, expected 16-bit")
    if rate < 1:
        raise ValueError(f"is sampled at {rate} Hz")
    place, size = chunks[b"data"]
    data = content[place : place + size]
    if len(data) != size or size % 2:
        raise ValueError(f"is cut off: {len(data) // 2} of {-(-size // 2)} samples")
    return np.frombuffer(data, "<i2").astype(np.int16), rate


def find_chunks(content: bytes) -> dict[bytes, tuple[int, int]]:
    """Where the chunks of a WAV file are: (place, size in bytes) by name.

    Only the last may be cut off. After the samples nothing but chunks and zeros may follow: a
    recording that goes on behind the end that its header declares would be shortened silently.

    Raises:
      ValueError: If the file has no chunks, or more than its header says.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError(f"is not a PCM WAV file ({'no' if content[12:] else 'cut off'} header)")
    chunks: dict[bytes, tuple[int, int]] = {}
    place = 12
    while place < len(content):
        name = content[place : place + 4]
        if not content[place:].strip(b"\0") or (b"data" not in chunks and len(content) < place + 8):
            break  # Filled up with zeros, or the header is cut off.
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        end = place + 8 + size
        is_tag = re.fullmatch(rb"[ -~]{4}", name) and name != b"data" and end <= len(content)
        # Tags in front of which no size stands, and tags that were cut off with their file.
        is_tag = is_tag or (name[:3] == b"TAG" and len(content) == place + 128) or name == b"LIST"
        if b"data" in chunks and not is_tag:
            raise ValueError(
                f"has more than its header says: {len(content) - place:,} bytes follow that are "
                "neither samples nor tags"
            )
        chunks.setdefault(name, (place + 8, size))
        place = end + size % 2
    return chunks
