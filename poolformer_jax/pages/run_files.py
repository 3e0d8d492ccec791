"""What a run left in its work directory: configuration, metrics, likelihood, clips."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int16

from poolformer_jax.audio.wav import format_wav, read_wav
from poolformer_jax.buckets import AnyPath, as_path
from poolformer_jax.files import read_json
from poolformer_jax.sampling.folder import REAL_PREFIX, TABLE_FILE, clip_name, read_table
from poolformer_jax.training.metrics_file import METRICS_FILE, describe_lines, read_metrics

_LOG = logging.getLogger(__name__)

MAX_CLIPS = 12
"""Generated clips that are read, and as many real ones: a page must stay small enough to open."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip to look at and listen to.

    Attributes:
      name: Such as that of its file without the ending.
      pcm: Its samples.
      sample_rate: In Hz.
      is_real: Whether it is a recording, and not generated.
      note: What else a page says of it.
    """

    name: str
    pcm: Int16[np.ndarray, " t"]
    sample_rate: int = 16_000
    is_real: bool = False
    note: str = ""

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.pcm) / self.sample_rate

    @property
    def encoded(self) -> bytes:
        """The content of its WAV file."""
        return format_wav(self.pcm, self.sample_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a work directory tells about a run.

    Attributes:
      workdir: The directory.
      config: Sections `model`, `data` and `train` of the resolved configuration.
      environment: Versions, commit, platform, number of parameters.
      training: Metrics of training steps, ordered by step, each step once.
      validation: Metrics of validations, likewise.
      likelihood: Result on the test split, or None.
      clips: Generated clips first, then real ones; the first few of each.
      num_generated: How many generated ones there are.
      pretrained: Clips of a model that comes with the package, drawn into `pretrained`.
    """

    workdir: AnyPath
    config: dict[str, Any]
    environment: dict[str, Any]
    training: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    likelihood: dict[str, Any] | None
    clips: list[Clip]
    num_generated: int
    pretrained: list[Clip]


def load_run(workdir: str | os.PathLike[str]) -> Run:
    """Reads a work directory; see `write_report` for the errors."""
    workdir = as_path(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(
            f"work directory {workdir} does not exist; make it with: {train_command(workdir)}"
        )
    config = _read_json(workdir / "config.json")
    if "augment" in config:
        raise ValueError(
            f"work directory {workdir} holds a classifier, which has no report; its result is in "
            f"{workdir / 'classifier_test.json'}"
        )
    training, validation = load_metrics(workdir)
    likelihood = workdir / "likelihood_test.json"
    generated = sorted((workdir / "samples").glob("sample_*.wav"))
    real = sorted((workdir / "samples").glob(f"{REAL_PREFIX}*.wav"))
    pretrained = sorted((workdir / "pretrained").glob("sample_*.wav"))
    return Run(
        workdir=workdir,
        config=config,
        environment=load_environment(workdir),
        training=training,
        validation=validation,
        likelihood=_read_json(likelihood) if likelihood.exists() else None,
        clips=[
            *_read_drawn(workdir / "samples", generated),
            *(read_clip(path) for path in real[:MAX_CLIPS]),
        ],
        num_generated=len(generated),
        pretrained=_read_drawn(workdir / "pretrained", pretrained),
    )


def load_environment(workdir: AnyPath) -> dict[str, Any]:
    """What environment.json holds; FileNotFoundError with the command that writes it."""
    return _read_json(workdir / "environment.json")


def load_metrics(workdir: AnyPath) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Metrics of training steps and of validations, ordered by step, each step once.

    Raises:
      FileNotFoundError: If there are none; the message names the command that writes them.
    """
    records = _read_metrics(workdir / METRICS_FILE)
    return _by_step(records, "train"), _by_step(records, "validation")


def read_clip(path: AnyPath, note: str = "") -> Clip:
    """Reads a WAV file of a run; recordings have names that begin with `REAL_PREFIX`."""
    pcm, sample_rate = read_wav(path)
    is_real = path.name.startswith(REAL_PREFIX)
    return Clip(name=path.stem, pcm=pcm, sample_rate=sample_rate, is_real=is_real, note=note)


def _read_drawn(folder: AnyPath, paths: Sequence[AnyPath]) -> list[Clip]:
    """The first of a folder's clips, each with the label it was drawn with, if that is known."""
    rows = read_table(folder) if (folder / TABLE_FILE).exists() else []
    notes = {clip_name(row.clip): f"label {row.label}" for row in rows if row.label is not None}
    return [read_clip(path, notes.get(path.name, "")) for path in paths[:MAX_CLIPS]]


def read_numbers(records: Sequence[dict[str, Any]], key: str) -> Float[np.ndarray, " n"]:
    """One metric of those records that have it; NaN for the null of a loss that was not finite."""
    values = [record[key] for record in records if key in record]
    return np.array([np.nan if value is None else value for value in values], np.float64)


def train_command(workdir: AnyPath) -> str:
    """The command that makes a work directory."""
    return f"python -m launch.train --config=configs/digits.py --workdir={workdir}"


def _check_exists(path: AnyPath) -> None:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; it is written by: {train_command(path.parent)}"
        )


def _read_json(path: AnyPath) -> dict[str, Any]:
    _check_exists(path)
    return read_json(path)


def _read_metrics(path: AnyPath) -> list[dict[str, Any]]:
    _check_exists(path)
    records, damaged = read_metrics(path)
    if damaged:
        _LOG.warning("%s of %s are left out", describe_lines(damaged), path)
    return records


def _by_step(records: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Picks one kind; a resumed run repeats steps after its checkpoint, and the last one counts."""
    steps = {record["step"]: record for record in records if record["kind"] == kind}
    return [steps[step] for step in sorted(steps)]
