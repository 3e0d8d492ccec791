"""Files that are there whole or not at all: the one way in which this project writes them."""

from __future__ import annotations

import json
import os
import pathlib
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
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # A full disk names none.
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes an indented JSON file in one go."""
    write_whole(path, json.dumps(content, indent=2) + "\n")
