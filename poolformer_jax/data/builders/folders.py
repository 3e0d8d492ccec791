"""Complete data sets on disk: the manifest, with every file's size and SHA-256, is written last."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from poolformer_jax.files import write_json

_LOG = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_INCOMPLETE = "incomplete."  # Begins the name of a temporary folder.
# Where no manifest tells: what builders write.
_BUILT = re.compile(r".+\.array_record-\d+-of-\d+|.+\.labels\.txt|(features|dataset_info)\.json")


def cache_dir() -> pathlib.Path:
    """The folder of whatever can be made again: $XDG_CACHE_HOME/poolformer_jax or ~/.cache/..."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(cache).expanduser().absolute() / "poolformer_jax"


def write_manifest(folder: pathlib.Path) -> None:
    """Declares all files in the folder complete, by their sizes and SHA-256."""
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, {"files": files})


def parse_manifest(text: str) -> Mapping[str, Mapping[str, Any]]:
    """Returns file name -> `bytes` and `sha256`.

    Raises:
      ValueError: If the text is no manifest.
    """
    try:
        files = json.loads(text)["files"]
        if not files:
            raise ValueError("lists no file")
        for name, expected in files.items():
            if "/" in name or set(expected) != {"bytes", "sha256"}:
                raise ValueError("is not a manifest")
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("is not a manifest") from error
    return files


def find_fault(folder: pathlib.Path) -> str | None:
    """Returns what is wrong, naming the file, or None if every file matches the manifest."""
    manifest = folder / MANIFEST
    try:
        for name, expected in parse_manifest(manifest.read_text(encoding="utf-8")).items():
            path = folder / name
            found_bytes, expected_bytes = path.stat().st_size, expected["bytes"]
            if found_bytes != expected_bytes:
                return f"{path} has {found_bytes} bytes, expected {expected_bytes}"
            if _fingerprint(path) != expected:
                return f"{path} does not match its SHA-256"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except ValueError as error:
        return f"{manifest} {error}"
    return None


def ensure_complete(folder: pathlib.Path, make: Callable[[pathlib.Path], pathlib.Path]) -> None:
    """Makes a data set beside its folder and moves it there, unless the folder is complete.

    Of several processes that share the disk one makes it, and the others wait.

    Args:
      folder: The data set's.
      make: Is given an empty folder, makes the data set in it, and returns where it is.

    Raises:
      ValueError: If the folder cannot be written, or holds something else too.
    """
    with _locked(folder.parent):
        fault = find_fault(folder)
        if fault is None:
            return  # Another process made it meanwhile. No other is at work now.
        _check_own(folder)
        for leftover in folder.parent.glob(f"{_INCOMPLETE}*"):
            if leftover.is_symlink() or not leftover.is_dir():
                continue
            _LOG.warning("Removing %s: the process that made it was interrupted", leftover)
            shutil.rmtree(leftover)
        if folder.exists():
            _LOG.warning("The data set in %s is damaged and is made again: %s", folder, fault)
        with tempfile.TemporaryDirectory(prefix=_INCOMPLETE, dir=folder.parent) as temporary:
            made = make(pathlib.Path(temporary))
            if folder.exists():
                shutil.rmtree(folder)
            made.replace(folder)
    _LOG.info("The data set is in %s", folder)


def _check_own(folder: pathlib.Path) -> None:
    """Raises ValueError if a folder, which is to be replaced, holds more than a data set."""
    if not folder.is_dir():
        return
    try:
        names = parse_manifest((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        names = {}
    for path in sorted(folder.iterdir()):
        is_own = path.name in names if names else _BUILT.fullmatch(path.name)
        if path.is_dir() or not (is_own or path.name.startswith(MANIFEST)):
            raise ValueError(
                f"{folder} is to be made again but holds {path.name!r}, which is no part of the "
                "data set; move that away, or choose another data_dir"
            )


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
            _LOG.info("Waiting for another process that makes a data set in %s", folder)
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield  # Closing the file releases the lock, as does the death of the process.


def _fingerprint(path: pathlib.Path) -> dict[str, int | str]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
