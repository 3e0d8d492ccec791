"""Builds a data set once, and opens it only after every byte on disk has been verified."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import logging
import os
import pathlib
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from poolformer_jax.data.builders import bucket
from poolformer_jax.data.builders.beethoven import Beethoven
from poolformer_jax.data.builders.digits import TINY, Digits, DigitsConfig
from poolformer_jax.data.builders.download import download_archive
from poolformer_jax.data.builders.fsdd import Fsdd
from poolformer_jax.data.builders.manifest import MANIFEST, find_fault, write_manifest
from poolformer_jax.data.builders.recordings import Recordings, RecordingsConfig
from poolformer_jax.data.builders.sc09 import Sc09
from poolformer_jax.data.builders.youtubemix import Youtubemix
from poolformer_jax.data.config import DataConfig

_LOG = logging.getLogger(__name__)

Source = Sequence[Mapping[str, Any]]
"""Random access to decoded examples: `audio` int16 [t], `name`, and of speech `label` (an int) and
`speaker`."""

SPLITS = ("train", "validation", "test")
_INCOMPLETE = "incomplete."  # Begins the name of a temporary folder.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What results on a data set depend on.

    Attributes:
      class_names: Names of the labels, in order; of music there are none.
      manifest_sha256: SHA-256 of the list of all its files' SHA-256, so of every byte.
    """

    class_names: tuple[str, ...]
    manifest_sha256: str


_RECORDINGS: Mapping[str, type[Recordings]] = {
    builder.name: builder for builder in (Sc09, Beethoven, Youtubemix, Fsdd)
}


def open_splits(config: DataConfig) -> Mapping[str, Source]:
    """Opens "train", "validation" and "test" of a complete data set.

    The size and SHA-256 of every file are compared with the manifest that was written after the
    build. The digits are built here if they are missing or damaged; other data sets are prepared
    beforehand, because they need their archives. A data set in a bucket is copied to the cache
    folder first. Processes that share a folder build and copy one at a time.

    Args:
      config: Names the data set and its data_dir.

    Returns:
      TFDS data sources: sequences of examples, each decoded when it is asked for.

    Raises:
      FileNotFoundError: If the data set is not there, or damaged; the message says how to make it.
      ImportError: If the digits must be built and eSpeak NG is not installed.
      OSError: If the bucket cannot be read.
      ValueError: If data_dir cannot be written.
    """
    builder = tfds.builder_from_directory(_complete_folder(config))
    return {split: builder.as_data_source(split) for split in SPLITS}


def describe_dataset(config: DataConfig) -> DatasetFacts:
    """Tells what a complete data set is; builds, copies and verifies it as `open_splits` does.

    Raises:
      As `open_splits`.
    """
    folder = _complete_folder(config)
    features = tfds.builder_from_directory(folder).info.features
    return DatasetFacts(
        class_names=tuple(features["label"].names) if "label" in features else (),
        manifest_sha256=hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
    )


def cache_dir() -> pathlib.Path:
    """The folder of whatever can be made again: $XDG_CACHE_HOME/poolformer_jax or ~/.cache/..."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(cache).expanduser().absolute() / "poolformer_jax"


def prepare(
    config: DataConfig,
    *,
    manual_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> None:
    """Builds a data set, unless it is complete already.

    Args:
      config: Names the data set and its data_dir, which may be in a bucket.
      manual_dir: The published archive, a folder that holds it, or the folder it was extracted to.
      download: Whether to get the archive from the Hugging Face Hub instead.

    Raises:
      FileNotFoundError: If manual_dir does not exist.
      ImportError: If something optional is not installed.
      OSError: If the archive cannot be downloaded or the bucket not be used.
      ValueError: If neither source is given, or the archive is not what was published; the message
        names the file and what to do.
    """
    if manual_dir is not None and download:
        raise ValueError(f"manual_dir {manual_dir} is given, so nothing is to download; drop one")
    location = _location(config)
    if _is_complete(config):
        _LOG.info(
            "%s is complete already%s",
            location,
            f" and was not compared with {manual_dir}; to build it anew, delete it first"
            if manual_dir is not None
            else "",
        )
        return
    builder, recipe = _recipe(config)
    if isinstance(recipe, RecordingsConfig):
        assert issubclass(builder, Recordings)
        recipe.manual_dir = _find_archive(builder, config, manual_dir, download=download)
    elif manual_dir is not None or download:
        raise ValueError(
            f"{config.name!r} is synthesised, not built from an archive; leave --manual_dir and "
            "--download out"
        )
    if bucket.is_bucket(location):
        bucket.check_writable(location)
        with _built(builder, recipe) as folder:
            bucket.upload(folder, location)
    else:
        _build_in_place(builder, recipe, pathlib.Path(location))


def prepare_command(config: DataConfig) -> str:
    """The command line that prepares a data set."""
    command = ["python", "-m", "launch.prepare_data", f"--dataset={config.name}"]
    if config.name in _RECORDINGS:
        command.append("--manual_dir=FOLDER_OF_THE_ARCHIVE")
    if config.data_dir is not None:
        command.append(f"--data_dir={config.data_dir}")
    if config.partial:
        command.append("--allow_partial")
    return shlex.join(command)


def _complete_folder(config: DataConfig) -> pathlib.Path:
    if bucket.is_bucket(_data_dir(config)):
        cache = cache_dir() / "buckets" / _relative_folder(config)
        copy = bucket.copy_to_disk(_location(config), cache, _locked)
        if copy is not None:
            return copy
        fault: str | None = f"{_location(config)} holds no complete data set"
    else:
        folder = pathlib.Path(_location(config))
        # The usual case, without the lock, so that a finished data_dir may be read-only.
        fault = find_fault(folder)
        if fault is None:
            return folder
        if config.name not in _RECORDINGS:
            prepare(config)
            return folder
    raise FileNotFoundError(
        f"the data set {config.name!r} is not ready ({fault}); make it with: "
        f"{prepare_command(config)}{_hint_at_partial(config)}"
    )


def _hint_at_partial(config: DataConfig) -> str:
    if config.partial or config.name not in _RECORDINGS:
        return ""
    if not _is_complete(dataclasses.replace(config, partial=True)):
        return ""
    return "; a subset is there: to train on it, set config.data.partial=True"


def _is_complete(config: DataConfig) -> bool:
    if bucket.is_bucket(_data_dir(config)):
        return bucket.is_complete(_location(config))
    return find_fault(pathlib.Path(_location(config))) is None


def _find_archive(
    builder: type[Recordings],
    config: DataConfig,
    manual_dir: str | os.PathLike[str] | None,
    *,
    download: bool,
) -> str | os.PathLike[str]:
    if manual_dir is not None:
        if not os.fspath(manual_dir) or not pathlib.Path(manual_dir).expanduser().exists():
            raise FileNotFoundError(
                f"manual_dir {os.fspath(manual_dir)!r} does not exist; name the folder that holds "
                f"{' or '.join(builder.ARCHIVE_NAMES)}, or the one it was extracted to"
            )
        return manual_dir
    hub = builder.HUB_ARCHIVE
    if download and hub is not None:
        _LOG.info("Downloading %s from the Hugging Face Hub", builder.TITLE)
        return download_archive(hub)
    archive = " or ".join(builder.ARCHIVE_NAMES)
    if download:
        raise ValueError(
            f"{builder.TITLE} is not on the Hugging Face Hub in its published form; get "
            f"{archive} ({builder.HOMEPAGE}) and pass its folder as --manual_dir"
        )
    raise ValueError(
        f"{config.name!r} is built from its published archive: name the folder that holds "
        f"{archive} as --manual_dir ({builder.HOMEPAGE})"
        + (", or pass --download to get it from the Hugging Face Hub" if hub else "")
    )


def _recipe(
    config: DataConfig,
) -> tuple[type[tfds.core.GeneratorBasedBuilder], tfds.core.BuilderConfig]:
    match config.name:
        case "digits":
            return Digits, DigitsConfig(seed=config.build_seed)
        case "digits_tiny":
            return Digits, dataclasses.replace(TINY, seed=config.build_seed)
        case name:
            return _RECORDINGS[name], RecordingsConfig(allow_partial=config.partial)


def _relative_folder(config: DataConfig) -> str:
    builder, recipe = _recipe(config)
    return f"{builder.name}/{recipe.name}/{builder.VERSION}"


def _location(config: DataConfig) -> str:
    """Path or URL of the folder of a data set."""
    return f"{_data_dir(config)}/{_relative_folder(config)}"


def _data_dir(config: DataConfig) -> str:
    if config.data_dir is None:
        return str(cache_dir())
    if bucket.is_bucket(config.data_dir):
        return config.data_dir.rstrip("/")
    return str(pathlib.Path(config.data_dir).expanduser().absolute())


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "a")  # noqa: SIM115 (only the opening is guarded by the try)
    except OSError as error:
        raise ValueError(
            f"cannot write the data set to {folder} ({error.strerror}); choose a writable folder "
            "as data_dir (copies of buckets go to the cache folder, XDG_CACHE_HOME)"
        ) from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            _LOG.info("Waiting for another process that builds %s", folder)
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield  # Closing the file releases the lock, as does the death of the process.


def _build_in_place(
    builder: type[tfds.core.GeneratorBasedBuilder],
    recipe: tfds.core.BuilderConfig,
    folder: pathlib.Path,
) -> None:
    """Builds beside the folder, and puts the result into its place when it is complete."""
    with _locked(folder.parent):
        fault = find_fault(folder)
        if fault is None:
            return  # Another process built it meanwhile. No other is building now.
        for leftover in folder.parent.glob(f"{_INCOMPLETE}*"):
            _LOG.warning("Removing %s: its build was interrupted", leftover)
            shutil.rmtree(leftover)
        if folder.exists():
            _LOG.warning("The data set in %s is damaged and is built again: %s", folder, fault)
        with _built(builder, recipe, folder.parent) as built:
            if folder.exists():
                shutil.rmtree(folder)
            built.replace(folder)
        _LOG.info("The data set is in %s", folder)


@contextlib.contextmanager
def _built(
    builder: type[tfds.core.GeneratorBasedBuilder],
    recipe: tfds.core.BuilderConfig,
    parent: pathlib.Path | None = None,
) -> Iterator[pathlib.Path]:
    """Builds in a temporary folder, which is gone afterwards; yields the complete data set."""
    with tempfile.TemporaryDirectory(prefix=_INCOMPLETE, dir=parent) as temporary:
        _LOG.info("Building %s/%s", builder.name, recipe.name)
        start = time.monotonic()
        # The bars and messages of TFDS talk of a download; there is none.
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            task = builder(data_dir=temporary, config=recipe)
            task.download_and_prepare(file_format="array_record")
        folder = pathlib.Path(task.data_dir)
        write_manifest(folder)
        _LOG.info("Built in %.0f s", time.monotonic() - start)
        yield folder
