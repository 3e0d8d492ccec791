"""What generated clips are compared with: a split of a data set, or a folder of WAV files."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.datasets import DATASETS
from poolformer_jax.experiment.paths import local_path, with_data_dir
from poolformer_jax.experiment.workdir import read_experiment

if TYPE_CHECKING:
    from poolformer_jax.data.source import Source
    from poolformer_jax.evals.samples.clip_sets import ClipSet

_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChosenReference:
    """What is asked for, before anything is opened.

    Attributes:
      data: Data set of the reference, or of the run that drew the clips; it has the recordings to
        score beside, and to measure the classifier on. None if there is neither.
      split: Of that data set, if it is the reference.
      folder: Of WAV files, if that is the reference.
    """

    data: DataConfig | None
    split: str | None
    folder: pathlib.Path | None

    @property
    def name(self) -> str:
        """For people: `sc09:train`, or the folder."""
        return (
            str(self.folder)
            if self.data is None or self.folder
            else f"{self.data.name}:{self.split}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference that was opened, and the recordings beside it.

    Attributes:
      clips: The reference.
      sha256: Of all its files.
      reading: What else decides the clips, besides the files: the split, or how they are read.
      splits: Of the data set; empty if there is none.
      data_sha256: Of the data set's files; None if there is none.
      about: All that for `metrics.json`.
    """

    clips: ClipSet
    sha256: str
    reading: str
    splits: Mapping[str, Source]
    data_sha256: str | None
    about: Mapping[str, Any]


def choose_reference(
    workdir: str | os.PathLike[str] | None,
    reference: str | None,
    data_dir: str | None,
    *,
    samples: pathlib.Path,
    partial: bool,
) -> ChosenReference:
    """Reads what the user names; a run's own train split if that is nothing.

    Args:
      workdir: Of the run that drew the clips.
      reference: Data set and split, such as `sc09:train`, or a folder.
      data_dir: Folder of data sets, if it is another than the run's.
      samples: The generated clips.
      partial: Whether to use the prepared subset of the data set.

    Raises:
      ValueError: If nothing is named, or it is neither, or the generated clips themselves.
    """
    data = None if workdir is None else read_experiment(workdir).data
    if data is None and reference is None:
        raise ValueError(
            "reference is missing: name a data set and a split, such as sc09:train, or a folder of "
            "WAV files"
        )
    text = reference or f"{data.name if data else ''}:train"
    name, _, split = text.rpartition(":")
    folder = None
    if split not in _SPLITS or (name not in DATASETS and pathlib.Path(text).is_dir()):
        folder = local_path("reference", text)
        if not folder.is_dir():
            raise ValueError(
                f"--reference={reference} is not a data set and a split, such as "
                f"{text if text in DATASETS else 'sc09'}:train, and no folder of WAV files either"
            )
        if folder.resolve() == samples.resolve():
            raise ValueError(
                f"--reference={folder} is the folder of the generated clips; name one of real "
                "clips, because compared with themselves all clips are perfect"
            )
        name = "" if data is None else data.name
    if name or folder is None:
        default = data or DataConfig()
        partial = partial or (name == default.name and default.partial)
        data = with_data_dir(dataclasses.replace(default, name=name, partial=partial), data_dir)
    return ChosenReference(data=data, split=None if folder else split, folder=folder)


def open_reference(
    chosen: ChosenReference, *, class_names: Sequence[str], resample: bool
) -> Reference:
    """Verifies a data set and lists a folder; no clip is decoded yet.

    Args:
      chosen: What to open.
      class_names: Of the classifier; they have to be those of the data set.
      resample: Whether to convert files of another rate, or stereo.

    Raises:
      FileNotFoundError: If the data set is not there; the message tells how to make it.
      ValueError: If its classes are others, or the folder holds no WAV file.
    """
    from poolformer_jax.data.source import describe_dataset, open_splits
    from poolformer_jax.evals.samples.clip_sets import real_set, wav_set
    from poolformer_jax.evals.samples.generated import list_references
    from poolformer_jax.evals.samples.wav_folder import hash_files
    from poolformer_jax.evals.scores.scoring import check_classes

    splits: Mapping[str, Source] = {}
    data, split, data_sha256 = chosen.data, chosen.split, None
    if data is not None:
        facts = describe_dataset(data)
        check_classes(class_names, facts.class_names, data.name)
        splits, data_sha256 = open_splits(data), facts.manifest_sha256
    if chosen.folder is not None:
        paths = list_references(chosen.folder)
        clips = wav_set(paths, name="reference", title="reference", resample=resample)
        sha256, reading = hash_files(paths), "resampled" if resample else "as they are"
        about: dict[str, Any] = {"folder": str(chosen.folder), "files_sha256": sha256}
    else:
        assert data is not None and split is not None and data_sha256 is not None
        clips, sha256, reading = real_set(splits[split], split), data_sha256, split
        about = {
            "data": data.name,
            "partial": data.partial,
            "split": split,
            "manifest_sha256": data_sha256,
        }
    return Reference(
        clips=clips,
        sha256=sha256,
        reading=reading,
        splits=splits,
        data_sha256=data_sha256,
        about={"name": chosen.name, "num_clips": clips.num_clips, **about},
    )
