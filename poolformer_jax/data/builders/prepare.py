"""Builds a data set once, and opens it only after every byte on disk has been verified."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from poolformer_jax.data.builders.digits import TINY, Digits, DigitsConfig
from poolformer_jax.data.config import DataConfig

_LOG = logging.getLogger(__name__)

Source = Sequence[Mapping[str, Any]]
"""Random access to decoded examples: `audio` int16 [t], `length` int, `label` int, `speaker`."""

SPLITS = ("train", "validation", "test")
_MANIFEST = "manifest.json"


def open_split(config: DataConfig, split: str) -> Source:
    """Opens a split, building the data set first if it is missing or damaged.

    The size and SHA-256 of every file are compared with the manifest that was written after the
    build. Whatever is wrong (a flipped byte, a missing file, a build that was killed) is logged as
    a warning and the data set is built again. Processes that share a data_dir build one at a time.

    Args:
      config: Names the data set and its data_dir.
      split: "train", "validation" or "test".

    Returns:
      A TFDS data source: a sequence of examples, each decoded when it is asked for.

    Raises:
      ImportError: If the data set must be built and eSpeak NG is not installed.
      ValueError: If the split is unknown, the data set has no builder, or data_dir cannot be
        written.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    data_dir = _data_dir(config)
    recipe = _recipe(config)
    folder = data_dir / Digits.name / recipe.name / str(Digits.VERSION)
    # The usual case first, without the lock, so that a finished data_dir may be read-only.
    if _find_fault(folder):
        with _locked(folder.parent):
            _build_if_needed(data_dir, recipe, folder)
    return tfds.builder_from_directory(folder).as_data_source(split)


def _data_dir(config: DataConfig) -> pathlib.Path:
    if config.data_dir is not None:
        return pathlib.Path(config.data_dir).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(cache).expanduser().absolute() / "poolformer_jax"


def _recipe(config: DataConfig) -> DigitsConfig:
    match config.name:
        case "digits":
            return DigitsConfig(seed=config.build_seed)
        case "digits_tiny":
            return dataclasses.replace(TINY, seed=config.build_seed)
        case _:
            raise ValueError(
                f"the builder of data set {config.name!r} is not part of this release yet; "
                "use name='digits'"
            )


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "a")  # noqa: SIM115 (only the opening is guarded by the try)
    except OSError as error:
        raise ValueError(
            f"cannot write the data set to {folder} ({error.strerror}); "
            "choose a writable folder as data_dir"
        ) from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            _LOG.info("Waiting for another process that builds %s", folder)
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield  # Closing the file releases the lock, as does the death of the process.


def _build_if_needed(data_dir: pathlib.Path, recipe: DigitsConfig, folder: pathlib.Path) -> None:
    fault = _find_fault(folder)
    if fault is None:
        return  # Another process built it meanwhile.
    # TFDS writes to incomplete.XXXXXX_VERSION and renames it at the end. Nobody else is building.
    leftovers = list(folder.parent.glob(f"incomplete.*_{folder.name}"))
    for leftover in leftovers:
        _LOG.warning("Removing %s: its build was interrupted", leftover)
        shutil.rmtree(leftover)
    if folder.exists():
        _LOG.warning("The data set in %s is damaged and is built again: %s", folder, fault)
        shutil.rmtree(folder)
    _LOG.info("Building %s (once; about half a minute for all digits)", folder)
    start = time.monotonic()
    # The bars and messages of TFDS talk of a download; there is none.
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder = Digits(data_dir=data_dir, config=recipe)
        builder.download_and_prepare(file_format="array_record")
    _write_manifest(folder)
    _LOG.info("Built %s in %.0f s", folder, time.monotonic() - start)


def _write_manifest(folder: pathlib.Path) -> None:
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    temporary = folder / f"{_MANIFEST}.tmp"
    temporary.write_text(json.dumps({"files": files}, indent=2))
    temporary.replace(folder / _MANIFEST)


def _find_fault(folder: pathlib.Path) -> str | None:
    """Returns what is wrong, naming the file, or None if every file matches the manifest."""
    manifest = folder / _MANIFEST
    try:
        files = json.loads(manifest.read_text())["files"]
        if not files:
            return f"{manifest} lists no file"
        for name, expected in files.items():
            path = folder / name
            found_bytes, expected_bytes = path.stat().st_size, expected["bytes"]
            if found_bytes != expected_bytes:
                return f"{path} has {found_bytes} bytes, expected {expected_bytes}"
            if _fingerprint(path) != expected:
                return f"{path} does not match its SHA-256"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{manifest} is not a manifest"
    return None


def _fingerprint(path: pathlib.Path) -> dict[str, int | str]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
