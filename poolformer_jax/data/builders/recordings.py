"""What the builders of recorded data sets share: a published archive in, checked clips out."""

from __future__ import annotations

import abc
import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from jaxtyping import Int16

from poolformer_jax.audio.wav import parse_wav
from poolformer_jax.data.builders.archive import Archive, open_archive
from poolformer_jax.data.builders.download import HubArchive, download_archive
from poolformer_jax.data.builders.features import clip_features
from poolformer_jax.data.config import DatasetConfig
from poolformer_jax.data.datasets import SAMPLE_RATE
from poolformer_jax.files import plain

_LOG = logging.getLogger(__name__)

_MAX_TAGS = 1 << 16  # Bytes of a WAV file beside its samples.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """A clip of an archive, planned: its file, and for speech its label and speaker."""

    name: str
    label: str | None = None
    speaker: str | None = None


Plan = Mapping[str, Sequence[Recording]]
"""The clips of "train", "validation" and "test"."""


@dataclasses.dataclass(eq=False, kw_only=True)
class RecordingsConfig(tfds.core.BuilderConfig):
    """What to build from.

    Attributes:
      name: "full" or "partial"; the two never share a folder.
      allow_partial: Whether a part of the published data set will do.
      manual_dir: The archive, a folder that holds it, or the folder it was extracted to.
    """

    name: str = dataclasses.field(init=False)
    allow_partial: bool = False
    manual_dir: str | os.PathLike[str] | None = None

    def __post_init__(self):
        self.name = "partial" if self.allow_partial else "full"


class Recordings(tfds.core.GeneratorBasedBuilder):
    """Builds a data set from 16-bit mono WAV files in an archive of known layout.

    Subclasses say what the archive is and plan its splits.

    Attributes:
      TITLE: The data set's name for people.
      HOMEPAGE: Where people find its archive.
      ARCHIVE_NAMES: Names of the archive, as globs.
      CLIP_PATTERN: Regular expression of the path of a clip in it.
      LABELS: Names of the classes; none for music.
      SOURCE_RATE: Sampling rate of the recordings in Hz.
      MAX_SECONDS: Longer ones are refused unread; with room, twice the longest or more.
      EXPECTED_CLIPS: Published number of clips per split, where the names do not tell.
      HUB_ARCHIVE: Where it can be downloaded; None if it cannot.
    """

    VERSION = tfds.core.Version("1.0.0")

    TITLE: ClassVar[str]
    HOMEPAGE: ClassVar[str]
    ARCHIVE_NAMES: ClassVar[tuple[str, ...]]
    CLIP_PATTERN: ClassVar[str]
    LABELS: ClassVar[tuple[str, ...]] = ()
    SOURCE_RATE: ClassVar[int] = SAMPLE_RATE
    MAX_SECONDS: ClassVar[int]
    EXPECTED_CLIPS: ClassVar[Mapping[str, int]] = {}
    HUB_ARCHIVE: ClassVar[HubArchive | None] = None

    @classmethod
    def recipe(cls, config: DatasetConfig) -> RecordingsConfig:
        """What to build for a configuration; where the archive is must be filled in."""
        return RecordingsConfig(allow_partial=config.partial)

    @classmethod
    def find_archive(
        cls, manual_dir: str | os.PathLike[str] | None, *, download: bool
    ) -> str | os.PathLike[str]:
        """Returns where the archive is: manual_dir, or what is downloaded from the Hub.

        Raises:
          FileNotFoundError: If manual_dir does not exist.
          ImportError: If the client of the Hub is not installed.
          OSError: If the download fails.
          ValueError: If neither is given, or there is nothing on the Hub.
        """
        names = " or ".join(cls.ARCHIVE_NAMES)
        if manual_dir is not None:
            if not os.fspath(manual_dir) or not pathlib.Path(manual_dir).expanduser().exists():
                raise FileNotFoundError(
                    f"manual_dir {os.fspath(manual_dir)!r} does not exist; name the folder that "
                    f"holds {names}, or the one it was extracted to"
                )
            return manual_dir
        if download and cls.HUB_ARCHIVE:
            _LOG.info("Downloading %s from the Hugging Face Hub", cls.TITLE)
            return download_archive(cls.HUB_ARCHIVE)
        if download:
            raise ValueError(
                f"{cls.TITLE} is not on the Hugging Face Hub in its published form; get {names} "
                f"({cls.HOMEPAGE}) and pass its folder as --manual_dir"
            )
        hint = ", or pass --download to get it from the Hugging Face Hub" if cls.HUB_ARCHIVE else ""
        raise ValueError(
            f"{cls.name!r} is built from its published archive: name the folder that holds {names} "
            f"as --manual_dir ({cls.HOMEPAGE}){hint}"
        )

    @abc.abstractmethod
    def plan(self, archive: Archive) -> Plan:
        """Assigns the archive's clips to splits by their names alone.

        Raises:
          ValueError: If names that the layout promises are missing, unless a part is allowed.
        """

    def resample(self, pcm: Int16[np.ndarray, " t"]) -> Int16[np.ndarray, " _"]:
        """From SOURCE_RATE to 16 kHz; builders of other rates override it."""
        return pcm

    def plan_by_number(
        self, archive: Archive, *, name_of: str, splits: Mapping[str, range]
    ) -> Plan:
        """Plans a layout of numbered clips, of which each split is a range.

        Args:
          archive: To look for the clips in.
          name_of: Format of a clip's name, with one field for its number.
          splits: Numbers of each split.

        Raises:
          ValueError: If a clip is missing (unless a part will do), or one is there that should not
            be.
        """
        names = {split: [name_of.format(i) for i in numbers] for split, numbers in splits.items()}
        expected = {name for part in names.values() for name in part}
        unknown = sorted(archive.clips - expected)
        if unknown:
            raise ValueError(
                f"{archive.path} holds {plain(unknown[0])}, which is not one of the "
                f"{len(expected):,} clips of {self.TITLE}; remove it, or name another archive"
            )
        missing = sorted(expected - archive.clips)
        if missing:
            fault = f"lacks {len(missing):,} of {len(expected):,} clips, such as {missing[0]}"
            self.complain_unless_partial(archive, fault)
        return {
            split: [Recording(name=name) for name in part if name in archive.clips]
            for split, part in names.items()
        }

    def complain_unless_partial(self, archive: Archive, fault: str) -> None:
        """Raises ValueError, or only warns if a part of the data set will do."""
        if not self._config.allow_partial:
            raise ValueError(
                f"{archive.path} {fault}; get the published archive of {self.TITLE} again, or pass "
                "--allow_partial to prepare the subset that is there"
            )
        _LOG.warning("%s %s; preparing a subset", archive.path, fault)

    @property
    def _config(self) -> RecordingsConfig:
        config = self.builder_config
        assert isinstance(config, RecordingsConfig)
        return config

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=type(self).__doc__, features=clip_features(labels=self.LABELS)
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # Nothing is downloaded here.
        manual_dir = self._config.manual_dir
        assert manual_dir is not None, "find_archive tells it"
        _LOG.info("Reading the names of the files in %s", manual_dir)
        archive = open_archive(
            manual_dir, file_names=self.ARCHIVE_NAMES, clip_pattern=self.CLIP_PATTERN
        )
        _LOG.info("Reading the clips in %s", archive.path)
        plan = self.plan(archive)
        for split, clips in plan.items():
            expected = self.EXPECTED_CLIPS.get(split, len(clips))
            if len(clips) != expected:
                fault = f"has {len(clips):,} clips of the {split} split, expected {expected:,}"
                self.complain_unless_partial(archive, fault)
            if not clips:
                raise ValueError(f"{archive.path} has no clip of the {split} split; add one")
        return {split: self._generate_examples(archive, split, plan[split]) for split in plan}

    def _generate_examples(
        self, archive: Archive, split: str, clips: Sequence[Recording]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        by_name = {clip.name: clip for clip in clips}
        # On a terminal only (disable=None).
        bar = tqdm.tqdm(total=len(by_name), desc=f"{self.name} {split}", unit="clip", disable=None)
        with bar:
            max_bytes = 2 * self.SOURCE_RATE * self.MAX_SECONDS + _MAX_TAGS
            for name, content in archive.read(by_name, max_bytes=max_bytes):
                clip = by_name[name]
                example = {"audio": self._parse(archive, name, content), "name": name}
                if self.LABELS:
                    example |= {"label": clip.label, "speaker": clip.speaker}
                yield name, example
                bar.update()

    def _parse(self, archive: Archive, name: str, content: bytes) -> Int16[np.ndarray, " _"]:
        try:
            pcm, rate = parse_wav(content)
            if rate != self.SOURCE_RATE:
                raise ValueError(f"is sampled at {rate} Hz, expected {self.SOURCE_RATE} Hz")
            if not len(pcm):
                raise ValueError("is empty")
        except ValueError as error:
            raise ValueError(
                f"{name} in {archive.path} {error}; {self.TITLE} is published as 16-bit mono WAV "
                f"files of {self.SOURCE_RATE} Hz: get the archive again"
            ) from error
        return self.resample(pcm)
