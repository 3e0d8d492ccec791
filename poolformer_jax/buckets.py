"""Folders in buckets, `gs://bucket/folder`, beside those of a mounted file system.

A bucket holds objects, each there whole or not at all, with names that may contain slashes. It
knows no folders, no appending and no renaming, and every question to it takes a while.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    AnyPath = pathlib.Path
else:
    AnyPath = pathlib.PurePath
"""A path of a file system, or of a bucket, which has the methods of a path without being one."""


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is no path of a file system, but for example gs://bucket/folder."""
    return "://" in os.fspath(path)


def as_path(path: str | os.PathLike[str]) -> AnyPath:
    """The path of a file or folder; of one in a bucket something with the methods of a path.

    What is there is asked of the bucket anew each time, as other machines write to it too.
    """
    if not is_bucket(path):
        return pathlib.Path(path)
    import fsspec.config
    from etils import epath

    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(path)


def is_there(path: AnyPath) -> bool:
    """Whether a file, a folder or a link is there; links count, wherever they lead."""
    return path.exists() if is_bucket(path) else os.path.lexists(path)


def move(path: AnyPath, target: AnyPath) -> None:
    """Moves a file or folder; one in a bucket is copied, and then removed."""
    if not is_bucket(path):
        path.rename(target)
        return
    import fsspec

    files, source = fsspec.url_to_fs(str(path))
    end = "/" if path.is_dir() else ""
    files.copy(source + end, f"{target}{end}", recursive=bool(end))
    files.rm(source, recursive=bool(end))


def check_writable(url: str | os.PathLike[str]) -> None:
    """Writes a small object into a bucket and deletes it.

    Raises:
      OSError: If the bucket cannot be written.
    """
    with bucket_errors("write", url):
        probe = as_path(url) / f".writable-{secrets.token_hex(8)}"  # All processes of a pod ask.
        probe.write_text("yes")
        probe.unlink()


def is_of_a_bucket(error: BaseException) -> bool:
    """Whether an error is of a client, such as a bucket that cannot be reached: no OSError."""
    return type(error).__module__.partition(".")[0] in ("gcsfs", "aiohttp", "google")


@contextlib.contextmanager
def bucket_errors(verb: str, url: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what a storage raises within into an error that says which bucket, and what to do.

    Raises:
      ImportError: If the client of the storage is missing.
      OSError: If the storage fails, or the disk is full.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{url} needs the client of that storage ({error}); for gs:// run: "
            "pip install -e '.[gcs]'"
        ) from error
    except Exception as error:  # Each storage raises errors of its own.
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # Of the disk.
        raise OSError(
            f"cannot {verb} {url} ({type(error).__name__}: {error}); check the bucket's name and "
            "your credentials, for Google's with: gcloud auth application-default login"
        ) from error
