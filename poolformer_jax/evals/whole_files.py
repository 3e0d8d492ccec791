"""Text files that are there whole or not at all."""

from __future__ import annotations

import pathlib


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file in one go: no reader sees half of it, also if the process is killed."""
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
