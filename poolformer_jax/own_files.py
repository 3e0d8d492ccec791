"""Folders of results, in which other people's files may lie too.

Such a folder has a list of the files that this project writes there. A name is on it before its
file is written, and a file of a name that is not on it is never replaced or removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable

from poolformer_jax.buckets import AnyPath, is_there
from poolformer_jax.files import plain, read_json, write_json

LIST_FILE = "written_files.json"

_ABOUT = "Files that poolformer_jax wrote here; it may replace these, and no others."


def listed(folder: AnyPath) -> frozenset[str] | None:
    """The names on the list of a folder; None if it has none.

    Raises:
      ValueError: If the list is damaged.
    """
    path = folder / LIST_FILE
    try:
        names = read_json(path).get("files")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("no list of names")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged, so that nothing tells which files may be replaced; delete it if "
            "all that is there is this program's, or choose another folder"
        ) from error
    # A name that leads out of the folder is nobody's.
    return frozenset(
        name for name in names if os.path.basename(name) == name not in ("", ".", "..")
    )


def check(folder: AnyPath, names: Iterable[str], *, own: Collection[str] = ()) -> None:
    """Checks that no file of somebody else is where results will be written.

    Args:
      folder: Of the results.
      names: Of the files to be written.
      own: Files of this project that are not on the list: earlier versions had none.

    Raises:
      FileExistsError: If one is in the way; links count, wherever they lead.
      ValueError: If the list is damaged.
    """
    check_free(folder, names, {*own, *(listed(folder) or ())})


def check_free(folder: AnyPath, names: Iterable[str], ours: Collection[str]) -> None:
    """As `check`, where all that is this project's is known."""
    for name in names:
        if name not in ours and is_there(folder / name):
            raise FileExistsError(
                f"{plain(folder / name)} is in the way and is kept: it is not on the list of what "
                f"this program wrote there ({LIST_FILE}); move it away, or choose another folder"
            )


def claim(folder: AnyPath, names: Collection[str], *, own: Collection[str] = ()) -> None:
    """Puts files on the list, before they are written; one process does. As `check`."""
    check(folder, names, own=own)
    before = listed(folder)
    if before is None or not before.issuperset(names):
        files = sorted({*names, *(before or ())})
        write_json(folder / LIST_FILE, {"about": _ABOUT, "files": files})


def remove(folder: AnyPath, names: Iterable[str]) -> None:
    """Removes files that are this project's; of a link, the link."""
    for name in names:
        (folder / name).unlink(missing_ok=True)


def remove_half_written(folder: AnyPath, names: Collection[str]) -> None:
    """Removes what `write_whole` left of such files when it was killed."""
    for path in folder.glob("*.part"):
        match = re.fullmatch(r"(.+)\.\d+\.part", path.name)
        if match is not None and match[1] in names:
            path.unlink()


def of_earlier_version(
    folder: AnyPath, names: Collection[str], result: str, *keys: str
) -> Collection[str]:
    """The names, if the file `result` is of this project: earlier versions kept no list."""
    return names if is_result(folder / result, *keys) else ()


def is_result(path: AnyPath, *keys: str) -> bool:
    """Whether a file is JSON with these keys, as results of this project's have, listed or not."""
    try:
        return read_json(path).keys() >= set(keys)
    except (OSError, ValueError):
        return False
