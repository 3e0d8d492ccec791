"""Data sets in buckets (gs://...): written once, copied to every host's disk before use.

ArrayRecord files are read at random, clip by clip, which a disk serves and a bucket does not. The
manifest is written last and read first, so half an upload is never taken for a data set. A copy
stays in the cache folder until it is deleted by hand.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Iterable

import tqdm
from etils import epath

from poolformer_jax.buckets import bucket_errors
from poolformer_jax.data.builders.folders import (
    MANIFEST,
    ensure_complete,
    find_fault,
    parse_manifest,
)
from poolformer_jax.files import write_whole


def upload(folder: pathlib.Path, url: str) -> None:
    """Copies a complete data set into a bucket, over what may be there.

    Raises:
      OSError: If the bucket cannot be written.
    """
    with bucket_errors("write", url):
        target = epath.Path(url)  # A bucket knows no folders: there is nothing to make.
        (target / MANIFEST).unlink(missing_ok=True)
        names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
        for name in _bar(names, "upload"):
            epath.Path(folder / name).copy(target / name, overwrite=True)
        epath.Path(folder / MANIFEST).copy(target / MANIFEST, overwrite=True)


def is_complete(url: str) -> bool:
    """Whether a data set is in a bucket with files of the sizes that its manifest names.

    Raises:
      OSError: If the bucket cannot be read.
    """
    manifest = _read_manifest(url)
    try:
        files = parse_manifest(manifest or "")
    except ValueError:
        return False
    with bucket_errors("read", url):
        for name, expected in files.items():
            path = epath.Path(url) / name
            if not path.exists() or path.stat().length != expected["bytes"]:
                return False
    return True


def copy_to_disk(url: str, cache: pathlib.Path) -> pathlib.Path | None:
    """Copies a data set from a bucket to disk, unless the same one is there already.

    Args:
      url: Folder of the data set in the bucket.
      cache: Folder on disk; every data set gets a folder there, named by its content.

    Returns:
      The folder on disk, verified; None if the bucket holds no complete data set there.

    Raises:
      OSError: If the bucket cannot be read, or what it holds is damaged.
      ValueError: If the cache cannot be written.
    """
    manifest = _read_manifest(url)
    if manifest is None:
        return None
    folder = cache / hashlib.sha256(manifest.encode()).hexdigest()[:16]
    if find_fault(folder):
        ensure_complete(folder, functools.partial(_download, url, manifest))
    return folder


def _read_manifest(url: str) -> str | None:
    with bucket_errors("read", url):
        manifest = epath.Path(url) / MANIFEST
        return manifest.read_text() if manifest.exists() else None


def _download(url: str, manifest: str, folder: pathlib.Path) -> pathlib.Path:
    try:
        names = sorted(parse_manifest(manifest))
    except ValueError as error:
        raise OSError(f"{url}/{MANIFEST} {error}; prepare the data set again") from error
    target = folder / "copy"
    target.mkdir()
    with bucket_errors("read", url):
        for name in _bar(names, "copy from bucket"):
            (epath.Path(url) / name).copy(target / name)
    write_whole(target / MANIFEST, manifest)
    fault = find_fault(target)
    if fault:
        raise OSError(f"{url} is damaged: {fault}; delete it, and prepare the data set again")
    return target


def _bar(names: list[str], what: str) -> Iterable[str]:
    return tqdm.tqdm(names, desc=what, unit="file", disable=None)
