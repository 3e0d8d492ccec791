"""What clips are drawn under: how many and how long, the label, the prompt they continue."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32

from poolformer_jax.audio.codec import encode
from poolformer_jax.audio.wav import read_wav
from poolformer_jax.config_checks import check_batch, check_range
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.datasets import MAX_LENGTH, SAMPLE_RATE
from poolformer_jax.experiment.configuration import Experiment
from poolformer_jax.experiment.paths import local_path
from poolformer_jax.ops.draw import Draw

MAX_CLIPS = 10_000_000
"""Clips of a folder: what is known of each is kept in memory."""


def check_amount(
    num_clips: int, length: int, *, batch_size: int | None = None, out: pathlib.Path | None = None
) -> None:
    """Checks that so many clips can be drawn.

    Args:
      num_clips: Clips.
      length: Samples of each.
      batch_size: Clips drawn side by side; about 16 if None.
      out: Folder that they go to, whose disk must have room for them; None keeps them in memory.

    Raises:
      ValueError: If a number is out of range, or the disk is too small.
    """
    check_range("num_clips", num_clips, 1, MAX_CLIPS)
    check_range("length", length, 1, MAX_LENGTH)
    if out is None:
        check_batch("num_clips", num_clips, length)
        return
    check_range("batch_size", batch_size, 1, MAX_CLIPS)
    check_batch("batch_size", min(batch_size or 1, num_clips), length)
    needed = num_clips * (44 + 2 * length)  # Bytes, with the header.
    there = sum(path.stat().st_size for path in out.glob("sample_*.wav"))
    disk = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(disk).free
    if needed > free + there:
        raise ValueError(
            f"{num_clips:,} clips of {length / SAMPLE_RATE:,.2f} s take {needed / 1e9:,.1f} GB, "
            f"and the disk of {out} has {free / 1e9:,.1f} GB left; draw fewer or shorter ones, or "
            "name another folder"
        )


def choose_label(
    experiment: Experiment, label: int | str | None, draw: Draw
) -> Callable[[int], int | None]:
    """From a clip's number to its class.

    Args:
      experiment: Whose model draws.
      label: A class, "cycle" for each in turn, or None.
      draw: With or without guidance.

    Raises:
      ValueError: If the model does not know the class, or never saw a clip without one and needs
        it now.
    """
    classes, text, guidance = experiment.model.num_classes, str(label), f"{draw.guidance:g}"
    if label is not None and not classes:
        raise ValueError(
            f"--label={text}: the model has no classes; train one with --config.model.num_classes"
        )
    if label is None:
        if draw.guidance != 1.0:
            raise ValueError(f"--guidance={guidance} needs a --label")
        if classes and not experiment.train.label_dropout:
            raise ValueError(
                "--label is missing: the model never saw a clip without a label in training "
                f"(train.label_dropout is 0); give 0 to {classes - 1}, or cycle"
            )
        return lambda clip: None
    if draw.guidance != 1.0 and not experiment.train.label_dropout:
        raise ValueError(
            f"--guidance={guidance} compares with clips without a label, of which the model never "
            "saw one in training (train.label_dropout is 0); use --guidance=1"
        )
    if text == "cycle":
        return lambda clip: clip % classes
    if not text.isdecimal() or int(text) >= classes:
        raise ValueError(f"--label={text} must be a class, 0 to {classes - 1}, or cycle")
    return lambda clip: int(text)


def read_prompt(
    path: str | os.PathLike[str] | None, prompt_length: int | None, *, data: DataConfig, length: int
) -> Int32[np.ndarray, " t"] | None:
    """The codes to continue, made as those of a training clip.

    With `data.normalize` they are scaled by the extremes of the whole file.

    Args:
      path: WAV file; None for no prompt.
      prompt_length: How much of it, in samples; all if None.
      data: How the model hears clips.
      length: Samples of the clips, prompt included.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If it is of another kind or rate, or too short or too long.
    """
    if path is None:
        if prompt_length is not None:
            raise ValueError(f"--prompt_length={prompt_length} needs a --prompt")
        return None
    path = local_path("prompt", path)
    pcm, rate = read_wav(path)
    if rate != SAMPLE_RATE:
        raise ValueError(
            f"--prompt={path} has {rate} Hz, the model {SAMPLE_RATE} Hz; convert it with: "
            f"ffmpeg -i {path} -ar {SAMPLE_RATE} -ac 1 -c:a pcm_s16le OUT.wav"
        )
    if not len(pcm):
        raise ValueError(f"--prompt={path} is empty")
    taken = len(pcm) if prompt_length is None else prompt_length
    if not 1 <= taken <= len(pcm):
        raise ValueError(f"--prompt_length is {taken} samples; {path} has {len(pcm)}")
    if taken >= length:
        raise ValueError(
            f"the prompt of {taken} samples leaves nothing to draw of clips of {length}; give a "
            "longer --length or a shorter --prompt_length"
        )
    codes = encode(pcm, codec=data.codec, normalize=data.normalize, part=slice(taken))
    return codes.astype(np.int32)
