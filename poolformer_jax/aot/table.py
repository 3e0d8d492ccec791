"""What programs cost as the rows of a table, and tables as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poolformer_jax.aot.report import ProgramReport


def columns(report: ProgramReport) -> dict[str, Any]:
    """What a table tells of a program; without its text only the memory."""
    row: dict[str, Any] = {
        "temporaries, GB": report.temp_bytes / 1e9,
        "peak, GB": report.peak_bytes / 1e9,
    }
    if (work := report.work) is None:
        return row | {"not readable": report.unreadable}
    return {
        "HBM, GB": work.hbm_bytes / 1e9,
        "roofline, ms": 1e3 * (report.roofline_seconds or 0.0),
        "bound by": report.bound_by,
        "TFLOP": work.flops / 1e12,
        **row,
        "instructions": work.instructions,
        "unknown loops": work.unknown_loops,
    }


def cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The header and the rows; the columns are all that any row has, as they come up."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [names, *([format_cell(row.get(name)) for name in names] for row in rows)]


def format_cell(value: Any) -> str:
    """A number with three digits, or all of an integer; None is an empty cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    return f"{value:,}" if type(value) is int else str(value)


def align(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table as plain text, its columns aligned; numbers to the right."""
    lines = cells(rows)
    is_number = [not any(isinstance(row.get(name), str) for row in rows) for name in lines[0]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ]
        for line in lines
    )
    return "\n".join("  ".join(line).rstrip() for line in padded)
