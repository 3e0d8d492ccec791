"""Named arrays in one .npz file, whose SHA-256 is kept elsewhere."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from poolformer_jax.buckets import AnyPath
from poolformer_jax.files import write_whole


def write_npz(path: AnyPath, arrays: Mapping[str, Any], *, compress: bool = False) -> str:
    """Writes arrays, whole or not at all, and returns the file's SHA-256."""
    buffer = io.BytesIO()
    save: Any = np.savez_compressed if compress else np.savez
    save(buffer, **arrays)
    content = buffer.getvalue()
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def read_npz(path: AnyPath, *, sha256: str) -> dict[str, np.ndarray]:
    """Reads what `write_npz` wrote.

    Raises:
      OSError: If there is no such file.
      ValueError: If it has another SHA-256, or is none of NumPy's.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"{path} is damaged, or of another model than its description: its SHA-256 differs"
        )
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return dict(file)
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
