"""Files that are there whole or not at all: the one way in which this project writes them.

And what comes from the files of others is shown in one way: `quoted`.
"""

from __future__ import annotations

import json
import os
import pathlib
import reprlib
from typing import Any


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file in one go: no reader sees half of it, also if the process is killed.

    Args:
      path: File; its folder is made if missing. Several processes may write the same one.
      content: Text is encoded in UTF-8.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # By name, and not as a temporary file, which only its owner may read.
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes an indented JSON file in one go."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises ValueError for a device, a pipe or a folder, of which reading may never end.

    A file that is missing is left to whoever opens it.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file; name one")


def plain(name: str | os.PathLike[str], most: int = 300) -> str:
    """A name or message for people: as it is, but quoted and cut if it would garble a terminal."""
    text = os.fspath(name)
    return text if text.isprintable() and len(text) <= most else quoted(text)


def quoted(value: Any, most: int = 80) -> str:
    """Shows what comes from somebody's file: quoted, cut, without new lines and terminal codes.

    Args:
      value: A name or text; other values are shown as Python does, their inner parts left out.
      most: Characters that are shown.
    """
    if isinstance(value, str):
        return repr(value) if len(value) <= most else f"{value[:most]!r}..."
    shortened = reprlib.Repr()
    shortened.maxlevel = 2  # Parts that refer to each other have exponentially many paths.
    shown = shortened.repr(value)
    return shown if len(shown) <= most else f"{shown[:most]}..."
