"""Paths as users write them, on command lines and in calls."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from typing import TypeVar

from poolformer_jax.buckets import AnyPath, as_path, is_bucket
from poolformer_jax.data.config import DatasetConfig

D = TypeVar("D", bound=DatasetConfig)


def local_path(name: str, path: str | os.PathLike[str]) -> pathlib.Path:
    """The path that an argument gives, on a mounted file system; `~` is the home folder.

    Args:
      name: Of the argument, for the error.
      path: Its value.

    Raises:
      ValueError: If it is empty, which would be the current folder, or the address of a bucket,
        which would become a folder of that name, or no path.
    """
    text = os.fspath(path)
    if not text.strip() or not text.isprintable():
        raise ValueError(f"{name} {text!r} must be a path; the current folder is called '.'")
    if re.match(r"\w+:/", text):
        raise ValueError(f"--{name}={text} is not a path of a mounted file system; choose one")
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} {text!r} must be a path: {error}") from error


def workdir_path(path: str | os.PathLike[str]) -> AnyPath:
    """As `local_path` for a workdir, which may be in a bucket too.

    Raises:
      ValueError: If it is neither a path nor gs://bucket/folder.
    """
    text = os.fspath(path)
    # What would be a pattern, or leave the folder, is no name.
    is_folder = re.fullmatch(r"gs://[\w.-]+(/[^/*?\[\]]+)+/?", text) and text.isprintable()
    if re.match(r"\w+:/", text) and (not is_folder or ".." in text.split("/")):
        raise ValueError(
            f"--workdir={text} is neither a path nor a folder in a bucket, such as "
            "gs://bucket/runs/sc09"
        )
    return as_path(text) if is_bucket(text) else local_path("workdir", text)


def with_data_dir(data: D, data_dir: str | os.PathLike[str] | None) -> D:
    """The data set in another folder, if one is given; errors as `DatasetConfig`."""
    return data if data_dir is None else dataclasses.replace(data, data_dir=os.fspath(data_dir))
