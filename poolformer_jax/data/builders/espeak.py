"""Speech synthesis with eSpeak NG, in a fresh subprocess.

eSpeak NG is a C library with global state that outlives an utterance (phases, echoes, random
numbers), so the bytes of a clip depend on all that was said before it in the process. Therefore
this file is two programs. The library side, `synthesize`, starts itself as
`python -m poolformer_jax.data.builders.espeak`, sends it the utterances as JSON and reads back
16-bit PCM, one frame per utterance: a little-endian int32 sample count, then the samples. The
subprocess side, `main`, binds the library through ctypes and speaks them in the given order. Equal
lists of utterances give equal bytes.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
from jaxtyping import Int16

SAMPLE_RATE = 16_000
"""Hz, of the clips that `synthesize` yields."""

_ENGINE_RATE = 22_050  # Hz, fixed by the voices' data.
_FRAME = struct.Struct("<i")
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}  # espeak_PARAMETER
_VOLUME = 60  # Of 100, the engine's default, at which its limiter is at work in many voices.
_SPEED_UP = 1.1
_TRIM_BELOW = 1e-3  # Of the peak: -60 dB.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Utterance:
    """What is said, and how.

    Attributes:
      text: Words in English.
      accent: eSpeak language, such as "en-us".
      voice: Voice variant, one of `voice_variants()`.
      rate: Words a minute, 80 to 450.
      pitch: 0 to 100; 50 is the voice's own.
      pitch_range: 0 (monotone) to 100; 50 is the voice's own.
      seed: Of the noise in breathy voices.
    """

    text: str
    accent: str
    voice: str
    rate: int
    pitch: int
    pitch_range: int
    seed: int


def voice_variants() -> list[str]:
    """Returns the names of eSpeak's voice variants, sorted.

    Raises:
      ImportError: If `espeakng_loader` is not installed.
    """
    return sorted(path.name for path in (_data_path() / "voices" / "!v").iterdir())


def synthesize(
    utterances: Sequence[Utterance], *, max_samples: int
) -> Iterator[Int16[np.ndarray, " t"]]:
    """Yields each utterance's clip, in order.

    A clip has 16 kHz; what is below -60 dB of its peak at either end is cut off; and an utterance
    that would last longer than `max_samples` is spoken again 10 % faster until it fits, never
    truncated.

    Args:
      utterances: What to say. The bytes of a clip depend on the clips before it.
      max_samples: Longest clip, in samples at 16 kHz.

    Raises:
      ImportError: If `espeakng_loader` is not installed.
      RuntimeError: If the subprocess fails; the message ends with what it printed.
    """
    _data_path()
    # The package may be on this process's sys.path only, as in tests.
    root = str(pathlib.Path(__file__).parents[3])
    search_path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    request = {
        "utterances": [dataclasses.asdict(utterance) for utterance in utterances],
        "max_samples": max_samples,
    }
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(json.dumps(request).encode())
        stdin.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "poolformer_jax.data.builders.espeak"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=os.environ | {"PYTHONPATH": search_path},
        )
        assert process.stdout is not None
        try:
            for utterance in utterances:
                clip = _read_frame(process.stdout)
                if clip is None:
                    exit_code = process.wait()
                    stderr.seek(0)
                    raise RuntimeError(
                        f"eSpeak NG stopped (exit code {exit_code}) at {utterance}:\n"
                        + stderr.read().decode(errors="replace")[-2000:]
                    )
                yield clip
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _read_frame(stream: IO[bytes]) -> Int16[np.ndarray, " t"] | None:
    header = stream.read(_FRAME.size)
    if len(header) < _FRAME.size:
        return None
    (samples,) = _FRAME.unpack(header)
    data = stream.read(2 * samples)
    return np.frombuffer(data, "<i2").astype(np.int16) if len(data) == 2 * samples else None


def _data_path() -> pathlib.Path:
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError(
            "the digits are spoken by eSpeak NG, which is not installed; "
            "run: pip install -e '.[digits]'"
        ) from error
    return pathlib.Path(espeakng_loader.get_data_path())


class _Engine:
    """eSpeak NG's C interface; one per process."""

    def __init__(self):
        import espeakng_loader

        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        synchronous, dont_exit = 2, 1 << 15
        path = str(_data_path()).encode()
        rate = self._library.espeak_Initialize(synchronous, 0, path, dont_exit)
        if rate != _ENGINE_RATE:
            raise RuntimeError(f"eSpeak NG at {path!r} gives {rate} Hz, expected {_ENGINE_RATE}")
        self._voices = frozenset(voice_variants())
        self._chunks: list[bytes] = []
        # Kept as an attribute: ctypes does not keep the callback alive.
        self._callback = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
        )(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def speak(self, utterance: Utterance, *, rate: int) -> Int16[np.ndarray, " t"]:
        """Returns the engine's samples at 22,050 Hz."""
        # The engine itself ignores an unknown variant without a word.
        if utterance.voice not in self._voices:
            raise ValueError(f"eSpeak NG has no voice variant {utterance.voice!r}")
        voice = f"{utterance.accent}+{utterance.voice}"
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(utterance.seed))
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"eSpeak NG has no voice {voice!r}")
        for name, value in (
            ("rate", rate),
            ("volume", _VOLUME),
            ("pitch", utterance.pitch),
            ("pitch_range", utterance.pitch_range),
        ):
            self._library.espeak_SetParameter(_PARAMETERS[name], value, 0)
        self._chunks.clear()
        text = utterance.text.encode()
        by_character, utf8 = 1, 1
        if self._library.espeak_Synth(text, len(text) + 1, 0, by_character, 0, utf8, None, None):
            raise RuntimeError(f"eSpeak NG cannot say {utterance}")
        return np.frombuffer(b"".join(self._chunks), np.int16)


def _clip(engine: _Engine, utterance: Utterance, max_samples: int) -> Int16[np.ndarray, " t"]:
    # Only the subprocess pays for this import.
    from scipy.signal import resample_poly

    rate = utterance.rate
    while True:
        raw = engine.speak(utterance, rate=rate)
        if not raw.any():
            raise RuntimeError(f"eSpeak NG is silent at {utterance}")
        x = resample_poly(raw.astype(np.float64), SAMPLE_RATE, _ENGINE_RATE)
        (loud,) = np.nonzero(np.abs(x) > _TRIM_BELOW * np.abs(x).max())
        x = x[loud[0] : loud[-1] + 1]
        if len(x) <= max_samples:
            return np.clip(np.rint(x), -(2**15), 2**15 - 1).astype(np.int16)
        rate = round(rate * _SPEED_UP)
        if rate > 450:
            raise RuntimeError(f"{utterance} does not fit into {max_samples} samples")


def main() -> None:
    """Reads one JSON request from stdin and writes frames of PCM to stdout."""
    # Whatever the C library prints goes to stderr, not between the frames.
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    engine = _Engine()
    for fields in request["utterances"]:
        clip = _clip(engine, Utterance(**fields), request["max_samples"])
        frames.write(_FRAME.pack(len(clip)) + clip.astype("<i2").tobytes())
    frames.close()


if __name__ == "__main__":
    main()
