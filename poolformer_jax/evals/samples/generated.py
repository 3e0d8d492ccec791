"""A folder of generated clips, and what is known of each if `launch.sample` drew them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from poolformer_jax.evals.samples.clip_sets import ClipSet, wav_set
from poolformer_jax.evals.samples.wav_folder import list_wavs
from poolformer_jax.files import read_json
from poolformer_jax.sampling.folder import (
    SETTINGS_FILE,
    TABLE_FILE,
    SampleRow,
    clip_path,
    read_table,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedClips:
    """A folder of clips.

    Attributes:
      folder: The folder.
      paths: Its WAV files.
      settings: How `launch.sample` drew them; None if another generator did.
      rows: What it knows of each; None if it did not draw them, or has not finished.
      clips: To be scored.
    """

    folder: pathlib.Path
    paths: tuple[pathlib.Path, ...]
    settings: Mapping[str, Any] | None
    rows: tuple[SampleRow, ...] | None
    clips: ClipSet


def open_generated(
    folder: pathlib.Path, *, num_classes: int, resample: bool = False
) -> GeneratedClips:
    """Lists the clips of a folder, without reading them.

    Args:
      folder: Of WAV files by any generator. Real clips that `launch.sample` wrote beside its own
        are left out.
      num_classes: Of the classifier.
      resample: Whether to convert files of another rate and to average channels, once they are
        read, rather than to refuse them.

    Raises:
      ValueError: If there are fewer than 2 clips, if likelihoods are not of exactly these clips,
        or if a clip was drawn with a label that is no class.
    """
    settings = _read_settings(folder)
    paths = list_wavs(folder, skip_real=settings is not None)
    if len(paths) < 2:
        raise ValueError(f"{folder} holds {len(paths)} clip; scores need at least 2")
    rows = _match_rows(folder, paths)
    labels = _labels_of(rows or (), num_classes)
    clips = wav_set(paths, name="samples", title="generated", resample=resample, labels=labels)
    return GeneratedClips(folder=folder, paths=paths, settings=settings, rows=rows, clips=clips)


def list_references(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """The WAV files of a folder to compare with; errors are those of `list_wavs`."""
    return list_wavs(folder, skip_real=_read_settings(folder) is not None)


def _read_settings(folder: pathlib.Path) -> Mapping[str, Any] | None:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(
            f"{error}; draw the clips again, or put them into a folder of their own"
        ) from error


def _match_rows(
    folder: pathlib.Path, paths: Sequence[pathlib.Path]
) -> tuple[SampleRow, ...] | None:
    if not (folder / TABLE_FILE).is_file():
        return None
    rows = {clip_path(folder, row.clip).name: row for row in read_table(folder)}
    names = [path.name for path in paths]
    for surplus, place in (
        (sorted(rows.keys() - set(names)), f"in {TABLE_FILE} but not in the folder"),
        (sorted(set(names) - rows.keys()), f"in the folder but not in {TABLE_FILE}"),
    ):
        if surplus:
            more = f" (and {len(surplus) - 1} more)" if len(surplus) > 1 else ""
            raise ValueError(
                f"{folder / surplus[0]}{more} is {place}, so the likelihoods are not of these "
                "clips; complete the folder with launch.sample, or put the clips to score into a "
                "folder of their own"
            )
    return tuple(rows[name] for name in names)


def _labels_of(rows: Sequence[SampleRow], num_classes: int) -> Int[np.ndarray, " b"] | None:
    labels = [row.label for row in rows if row.label is not None]
    if not labels or len(labels) < len(rows):
        return None
    if not 0 <= min(labels) <= max(labels) < num_classes:
        raise ValueError(
            f"clips were drawn with labels {min(labels)} to {max(labels)}, but the classifier "
            f"knows 0 to {num_classes - 1}; use one that was trained on the model's data set"
        )
    return np.array(labels)
