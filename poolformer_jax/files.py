"""Files that are there whole or not at all: the one way in which this project writes them.

And what comes from the files of others is shown in one way: `quoted`.
"""

from __future__ import annotations

import itertools
import json
import os
import reprlib
from typing import Any

from poolformer_jax.buckets import AnyPath, as_path, is_bucket


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file in one go: no reader sees half of it, also if the process is killed.

    Args:
      path: File, perhaps in a bucket; its folder is made if missing. Several processes may write
        the same one.
      content: Text is encoded in UTF-8.
    """
    path = as_path(path)
    content = content.encode() if isinstance(content, str) else content
    if is_bucket(path):  # An object is there whole or not at all.
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # By name, and not as a temporary file, which only its owner may read.
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # A full disk names none.
        raise
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
      OSError: If it cannot be read.
      ValueError: If it holds anything else; the message names the file.
    """
    path = as_path(path)
    try:
        content = json.loads(path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    except (ValueError, RecursionError) as error:  # A number of thousands of digits; brackets.
        raise ValueError(f"{path} is not valid JSON: too long a number or too deep") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes an indented JSON file in one go."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def free_path(path: AnyPath) -> AnyPath:
    """The path itself if nothing is there, else the first of path_1, path_2, ... that is free."""
    names = (path.with_stem(f"{path.stem}_{n}") for n in itertools.count(1))
    return next(found for found in itertools.chain([path], names) if not found.exists())


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises ValueError for a device, a pipe or a folder, of which reading may never end.

    A file that is missing is left to whoever opens it.
    """
    path = as_path(path)
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
