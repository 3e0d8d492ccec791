"""Reading metrics.jsonl, of which lines may be damaged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from poolformer_jax.buckets import AnyPath

METRICS_FILE = "metrics.jsonl"


def read_metrics(path: AnyPath) -> tuple[list[dict[str, Any]], list[int]]:
    """Reads the records of a run, in the order of the file.

    A last line without its end is that of a run that is writing it, or was killed meanwhile.

    Returns:
      (records, which have a `kind` and a `step`; numbers of the lines that hold none). Both are
      empty if there is no file.
    """
    records, damaged = [], []
    *lines, unfinished = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate([*lines, unfinished], start=1):
        try:
            record = json.loads(line.decode())
            if type(record["kind"]) is not str or type(record["step"]) is not int:
                raise TypeError
            records.append(record)
        except (ValueError, TypeError, KeyError, RecursionError):
            if line.strip() and number <= len(lines):
                damaged.append(number)
    return records, damaged


def describe_lines(numbers: Sequence[int]) -> str:
    """Names damaged lines."""
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"damaged lines {', '.join(map(str, numbers[:5]))}{more}"
