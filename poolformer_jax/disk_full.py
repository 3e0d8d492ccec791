"""A disk without room: told from other errors, whoever met it, and said in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator

from poolformer_jax.buckets import is_bucket

_ADVICE = "make room, and run the same command again"
_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Of writers in C++, whose errors have no number.
_TEXTS = re.compile("|".join(re.escape(os.strerror(number)) for number in _NUMBERS))


class DiskFullError(OSError):
    """The message says which disk, what is kept, and what to do."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that there is no room."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        if isinstance(error, DiskFullError) or getattr(error, "errno", None) in _NUMBERS:
            return True
        if isinstance(error, (OSError, RuntimeError, ValueError)) and _TEXTS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full_error(folder: str | os.PathLike[str], kept: str) -> DiskFullError:
    """Makes the error for a folder, with what is kept in words."""
    if is_bucket(folder):  # What goes there is written here first.
        folder = tempfile.gettempdir()
    place = pathlib.Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    return DiskFullError(
        f"the disk of {folder} is full ({free / 1e6:,.1f} MB free); {kept}: {_ADVICE}"
    )


def with_advice(error: Exception) -> str:
    """The message of an error, with what to do if it comes from a full disk."""
    silent = is_disk_full(error) and not isinstance(error, DiskFullError)
    return f"{error}; {_ADVICE}" if silent else str(error)


@contextlib.contextmanager
def disk_full_errors(folder: str | os.PathLike[str], kept: str) -> Iterator[None]:
    """Turns errors of a full disk within into `disk_full_error`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFullError) or not is_disk_full(error):
            raise
        raise disk_full_error(folder, kept) from error
