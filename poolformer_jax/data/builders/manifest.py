"""Size and SHA-256 of every file of a data set, written last: without it, nothing is complete."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

MANIFEST = "manifest.json"


def write_manifest(folder: pathlib.Path) -> None:
    """Declares all files in the folder complete."""
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps({"files": files}, indent=2), encoding="utf-8")
    temporary.replace(folder / MANIFEST)


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


def _fingerprint(path: pathlib.Path) -> dict[str, int | str]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
