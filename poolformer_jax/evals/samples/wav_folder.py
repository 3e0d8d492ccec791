"""Clips of any generator, read batch by batch from a folder of WAV files."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32, Int, Shaped
from scipy.io import wavfile
from scipy.signal import resample_poly

from poolformer_jax.audio.wav import find_chunks
from poolformer_jax.files import check_regular, plain, quoted
from poolformer_jax.sampling.folder import REAL_PREFIX

# Beyond these a file would take the memory, or resampling would.
_MAX_BYTES = 1 << 28
_MIN_RATE, _MAX_RATE = 1_000, 1_000_000  # Hz.


@dataclasses.dataclass(frozen=True)
class FolderReport:
    """What was odd about clips; `a + b` is that of both, and `dataclasses.asdict` makes it JSON.

    Attributes:
      num_clips: Clips read.
      silent: Names of those whose samples are all equal.
      non_finite: Names of those that hold NaN or infinity, which is read as 0.
      resampled: Clips of another rate or with several channels.
      padded: Clips shorter than asked for, filled up with zeros at the end.
      truncated: Clips longer than asked for, whose end was dropped.
    """

    num_clips: int = 0
    silent: tuple[str, ...] = ()
    non_finite: tuple[str, ...] = ()
    resampled: int = 0
    padded: int = 0
    truncated: int = 0

    def __add__(self, other: FolderReport) -> FolderReport:
        fields = (field.name for field in dataclasses.fields(self))
        return FolderReport(**{name: getattr(self, name) + getattr(other, name) for name in fields})

    @classmethod
    def of_json(cls, text: str) -> FolderReport:
        """From what `json.dumps` makes of `dataclasses.asdict`."""
        values = json.loads(text)
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values | lists)


@dataclasses.dataclass(frozen=True)
class ClipBatch:
    """Some clips of a folder.

    Attributes:
      names: Of the files.
      audio: Samples in [-1, 1] (of float files: as they are).
      report: About these clips.
      labels: Classes of the clips, None if unknown.
    """

    names: tuple[str, ...]
    audio: Float32[np.ndarray, "b t"]
    report: FolderReport
    labels: Int[np.ndarray, " b"] | None = None


def list_wavs(
    folder: str | os.PathLike[str], *, skip_real: bool = False
) -> tuple[pathlib.Path, ...]:
    """Returns the WAV files in a folder, `x_2.wav` before `x_10.wav`; subfolders aren't searched.

    Args:
      folder: Of the clips.
      skip_real: Leave out files whose name starts with `real_`, which `launch.sample` writes beside
        the generated ones.

    Raises:
      ValueError: If there is no such folder, no such file in it, or one of a name that cannot be
        shown or is no file.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; pass the one that holds the clips")
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".wav"
        and not path.name.startswith(".")
        and not (skip_real and path.name.startswith(REAL_PREFIX))
    ]
    if not paths:
        kind = f"WAV file that doesn't start with {REAL_PREFIX}" if skip_real else "WAV file"
        raise ValueError(f"{folder} holds no {kind}; clips must lie directly in it")
    for path in paths:
        # Names go to the terminal, to tables and to pages; reading a pipe may never end.
        if not path.name.isprintable():
            raise ValueError(f"{folder} holds {quoted(path.name)}; rename it")
        check_regular(path)
    return tuple(sorted(paths, key=_natural_order))


def hash_files(paths: Sequence[pathlib.Path]) -> str:
    """SHA-256 of the names and the contents of files, in their order."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{content} {path.name}\n".encode())
    return total.hexdigest()


def read_clips(
    paths: Sequence[pathlib.Path],
    *,
    num_samples: int = 16_000,
    sample_rate: int = 16_000,
    resample: bool = False,
    batch_size: int = 64,
) -> Iterator[ClipBatch]:
    """Reads clips of one length, in the order of `paths`; one batch is in memory at a time.

    Args:
      paths: PCM (8, 16, 24, 32 bit) or float WAV files, from `list_wavs`.
      num_samples: Length of a clip; shorter ones are padded, longer ones truncated, at the end.
      sample_rate: In Hz.
      resample: Whether to convert files of another rate and to average channels, rather than
        to refuse them.
      batch_size: Clips in a batch; the last one may have fewer.

    Yields:
      Batches with a report; no clip is left out.

    Raises:
      ValueError: If a file can't be read, is empty, or has another rate or several channels and
        `resample` is off. It names the file.
    """
    for start in range(0, len(paths), batch_size):
        some = paths[start : start + batch_size]
        audio = np.zeros((len(some), num_samples), np.float32)
        report = FolderReport()
        for row, path in zip(audio, some, strict=True):
            report += _read_into(row, path, sample_rate=sample_rate, resample=resample)
        yield ClipBatch(tuple(path.name for path in some), audio, report)


def _read_into(
    row: Float32[np.ndarray, " t"], path: pathlib.Path, *, sample_rate: int, resample: bool
) -> FolderReport:
    samples, rate = _read_samples(path)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    fits = rate == sample_rate and channels == 1
    if not fits and not resample:
        raise ValueError(
            f"{path} has {channels} channel{'s' * (channels > 1)} at {rate} Hz, expected 1 at "
            f"{sample_rate} Hz; pass --resample to convert it while reading, or convert it with: "
            f"ffmpeg -i {path} -ac 1 -ar {sample_rate} OUT.wav"
        )
    finite = np.isfinite(samples)
    samples = np.where(finite, samples, 0.0)
    if channels > 1:
        samples = samples.mean(axis=1)
    silent = samples.min() == samples.max()
    if rate != sample_rate:
        divisor = math.gcd(rate, sample_rate)
        samples = resample_poly(samples, sample_rate // divisor, rate // divisor)
    count = min(len(samples), len(row))
    row[:count] = samples[:count]
    return FolderReport(
        num_clips=1,
        silent=(path.name,) if silent else (),
        non_finite=() if finite.all() else (path.name,),
        resampled=int(not fits),
        padded=int(len(samples) < len(row)),
        truncated=int(len(samples) > len(row)),
    )


def _read_samples(path: pathlib.Path) -> tuple[Shaped[np.ndarray, "t ..."], int]:
    """Reads a file as floating-point numbers, and its rate in Hz."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"has more than {_MAX_BYTES:,} bytes")
        content = path.read_bytes()
        if content.startswith(b"RIFF"):  # Scipy reads relatives of the format too.
            find_chunks(content)
        with warnings.catch_warnings():
            # Chunks with tags are no fault; an end before its time is.
            warnings.simplefilter("ignore", wavfile.WavFileWarning)
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            rate, samples = wavfile.read(io.BytesIO(content))
        if samples.size and not _MIN_RATE <= rate <= _MAX_RATE:
            raise ValueError(f"is sampled at {rate} Hz")
    except Exception as error:  # scipy's parser fails with whatever it trips over.
        raise ValueError(
            f"{path} can't be read as a WAV file ({plain(str(error))}); remove it, or write it "
            "again"
        ) from error
    if not samples.size:
        raise ValueError(f"{path} has no samples; remove it, or write it again")
    if samples.dtype.kind == "u":  # 8 bit; scipy reads 24 bit as 32 bit.
        samples = (samples - 128.0) / 128.0
    elif samples.dtype.kind == "i":
        samples = samples / 2.0 ** (8 * samples.dtype.itemsize - 1)
    else:
        with np.errstate(over="ignore"):  # Beyond float32 a sample counts as infinite.
            samples = samples.astype(np.float32)
    return samples, rate


def _natural_order(path: pathlib.Path) -> tuple[list[tuple[int, str]], str]:
    """Digits count as numbers; the name itself decides between 01 and 1."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name
