"""Builds a data set once, on disk or for a bucket."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import pathlib
import shlex
import tempfile
import time
from typing import Any

import tensorflow_datasets as tfds

from poolformer_jax.buckets import check_writable, is_bucket
from poolformer_jax.data.builders import bucket
from poolformer_jax.data.builders.folders import (
    cache_dir,
    ensure_complete,
    find_fault,
    write_manifest,
)
from poolformer_jax.data.config import DatasetConfig
from poolformer_jax.disk_full import disk_full_errors

_LOG = logging.getLogger(__name__)


def prepare(
    config: DatasetConfig,
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
      OSError: If the archive cannot be downloaded, or the bucket cannot be used.
      ValueError: If neither source is given, or the archive is not what was published; the message
        names the file and what to do.
    """
    if manual_dir is not None and download:
        raise ValueError(f"manual_dir {manual_dir} and download are both given; drop one of them")
    place = location(config)
    if is_complete(config):
        compared = f" and was not compared with {manual_dir}; to build it anew, delete it first"
        _LOG.info("%s is complete already%s", place, "" if manual_dir is None else compared)
        return
    builder = config.dataset.load_builder()
    recipe = builder.recipe(config)
    if config.dataset.has_archive:
        recipe.manual_dir = builder.find_archive(manual_dir, download=download)
    elif manual_dir is not None or download:
        raise ValueError(
            f"{config.name!r} is synthesised, not built from an archive; leave --manual_dir and "
            "--download out"
        )
    if is_bucket(place):
        check_writable(place)
        with tempfile.TemporaryDirectory() as temporary:
            with disk_full_errors(temporary, "nothing was uploaded"):
                built = _build(builder, recipe, pathlib.Path(temporary))
            bucket.upload(built, place)
    else:
        with disk_full_errors(place, "no part of the data set is left there"):
            ensure_complete(pathlib.Path(place), functools.partial(_build, builder, recipe))


def prepare_command(config: DatasetConfig) -> str:
    """The command line that prepares a data set."""
    command = ["python", "-m", "launch.prepare_data", f"--dataset={config.name}"]
    if config.dataset.has_archive:
        command.append("--manual_dir=FOLDER_OF_THE_ARCHIVE")
    if config.data_dir is not None:
        command.append(f"--data_dir={config.data_dir}")
    if config.partial:
        command.append("--allow_partial")
    return shlex.join(command)


def is_complete(config: DatasetConfig) -> bool:
    """Whether the data set is there: on disk, every byte of it; in a bucket, files of its sizes.

    Raises:
      OSError: If the bucket cannot be read.
    """
    place = location(config)
    if is_bucket(place):
        return bucket.is_complete(place)
    return find_fault(pathlib.Path(place)) is None


def location(config: DatasetConfig) -> str:
    """Path or URL of the folder of a data set."""
    if config.data_dir is None:
        data_dir = str(cache_dir())
    elif is_bucket(config.data_dir):
        data_dir = config.data_dir.rstrip("/")
    else:
        data_dir = str(pathlib.Path(config.data_dir).expanduser().absolute())
    return f"{data_dir}/{relative_folder(config)}"


def relative_folder(config: DatasetConfig) -> str:
    """The folder of a data set in any data_dir: its name, recipe and version."""
    builder = config.dataset.load_builder()
    return f"{builder.name}/{builder.recipe(config).name}/{builder.VERSION}"


def _build(builder: Any, recipe: tfds.core.BuilderConfig, temporary: pathlib.Path) -> pathlib.Path:
    """Builds a data set somewhere below a temporary folder; returns where it is."""
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
    return folder
