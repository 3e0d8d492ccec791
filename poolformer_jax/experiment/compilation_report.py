"""What compiled programs tell, as tables, as a page and as a plot of the scaling."""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from poolformer_jax.aot.chips import Chip, chip_of
from poolformer_jax.aot.table import align, cells, columns
from poolformer_jax.experiment.compilation import CompiledProgram, Scaling
from poolformer_jax.files import write_whole

Rows = Sequence[Mapping[str, Any]]

ABOUT = (
    "Bytes, FLOPs and times are those of one chip and one step. The roofline is the least time for "
    "its HBM bytes and matrix products; products inside of kernels and vector work are not in it. "
    "The time of the links is that of the least bytes a chip has to send, over all of its links at "
    "their peak. They prove no speed: the larger of the two, or their sum where nothing overlaps, "
    "are lower bounds."
)


def tables(programs: Sequence[CompiledProgram]) -> dict[str, Rows]:
    """All tables by title; those without rows are left out."""
    first = chip_of(programs[0].topology)
    found: dict[str, Rows] = {
        "Programs": [_program_row(program) for program in programs],
        "Collectives": [row for program in programs for row in _collective_rows(program)],
        "Weak scaling: the batch grows with the chips": scaling_rows(programs, "weak"),
        "Strong scaling: the same batch": scaling_rows(programs, "strong"),
        f"Peaks of a chip, {first.source}": [_chip_row(first)],
    }
    return {title: rows for title, rows in found.items() if rows}


def describe_compiled(programs: Sequence[CompiledProgram]) -> str:
    """The tables as plain text."""
    texts = [f"{title}\n\n{align(rows)}\n" for title, rows in tables(programs).items()]
    return "\n".join([*texts, textwrap.fill(ABOUT, 100)])


def write_page(path: pathlib.Path, programs: Sequence[CompiledProgram]) -> None:
    """Writes one self-contained page; it needs Matplotlib."""
    from poolformer_jax.pages import html as page
    from poolformer_jax.pages.plots import plot_slices

    sections = []
    for title, rows in tables(programs).items():
        header, *body = cells(rows)
        sections.append(page.section(title, page.table(body, header=header, numeric=True)))
    series = {}
    for name in get_args(Scaling):
        rows = [row for row in scaling_rows(programs, name) if row[_OVERLAPPED] is not None]
        if len(rows) > 1:
            chips, hidden, exposed = (
                [row[key] for row in rows] for key in ("chips", _OVERLAPPED, _SERIAL)
            )
            series[name] = chips, hidden, exposed
    if series:
        figure = plot_slices(series)
        picture = page.picture(figure, "Efficiency over the number of chips", caption=ABOUT)
        sections.insert(0, page.section("Scaling", picture))
    else:
        sections.append(page.caption(ABOUT))
    first = programs[0]
    title = f"Compiled for {first.topology}" + (" and larger slices" if series else "")
    write_whole(path, page.document(title, sections))


_OVERLAPPED, _SERIAL = "efficiency, overlapped, %", "efficiency, not overlapped, %"


def scaling_rows(programs: Sequence[CompiledProgram], scaling: Scaling) -> list[dict[str, Any]]:
    """Clips per second and efficiency of training over the number of chips, at most.

    The efficiency is that of a chip relative to the first topology, once with collectives that are
    hidden behind the rest as far as it lasts, and once with nothing hidden.
    """
    rows: list[dict[str, Any]] = []
    best: list[float] = []
    for program in programs:
        if scaling not in program.scaling:
            continue
        row: dict[str, Any] = {
            "topology": _place(program),
            "chips": program.chips,
            "batch": program.batch,
            "clips a chip": program.batch / program.chips,
        }
        rows.append(row)
        roofline, links = program.roofline_seconds, program.collective_seconds
        if roofline is None or links is None:
            row |= {_OVERLAPPED: None, _SERIAL: None}
            continue
        overlapped, serial = (
            program.batch / seconds for seconds in (max(roofline, links), roofline + links)
        )
        if not best:
            best += [overlapped / program.chips, serial / program.chips]
        row |= {
            "roofline, ms": 1e3 * roofline,
            "links, ms": 1e3 * links,
            "clips/s, overlapped": overlapped,
            "clips/s, not overlapped": serial,
            _OVERLAPPED: 100 * overlapped / program.chips / best[0],
            _SERIAL: 100 * serial / program.chips / best[1],
        }
    return rows


def _place(program: CompiledProgram) -> str:
    slices = f"{program.num_slices} x " if program.num_slices > 1 else ""
    return slices + program.topology


def _program_row(program: CompiledProgram) -> dict[str, Any]:
    row: dict[str, Any] = {
        "program": program.program,
        "topology": _place(program),
        "mesh": " x ".join(f"{name} {size}" for name, size in program.mesh.items() if size > 1)
        or "1",
        "batch": program.batch,
        "fits": "yes" if program.fits else "no",
    }
    usable = chip_of(program.topology).hbm_bytes
    if (report := program.report) is None:
        needed = program.needed_bytes
        return row | {"peak, GB": None if needed is None else needed / 1e9, "of, GB": usable / 1e9}
    row |= {"peak, GB": report.peak_bytes / 1e9, "of, GB": usable / 1e9}
    row |= columns(report)
    links = program.collective_seconds
    row["links, ms"] = None if links is None else 1e3 * links
    return row | {"compile, s": program.compile_seconds}


def _collective_rows(program: CompiledProgram) -> list[dict[str, Any]]:
    return [
        {
            "program": program.program,
            "topology": _place(program),
            "batch": program.batch,
            "collective": one.kind,
            "over": ", ".join(one.axes),
            "link": one.link,
            "count": one.count,
            "MB": one.num_bytes / 1e6,
            "least, ms": None if one.seconds is None else 1e3 * one.seconds,
        }
        for one in program.collectives
    ]


def _chip_row(chip: Chip) -> dict[str, Any]:
    dcn = chip.dcn_bytes_per_second
    return {
        "chip": chip.name,
        "usable HBM, GiB": chip.hbm_bytes / 2**30,
        "HBM, GB/s": chip.hbm_bytes_per_second / 1e9,
        "bfloat16, TFLOP/s": chip.flops_per_second / 1e12,
        "ICI, GB/s": chip.ici_bytes_per_second / 1e9,
        "DCN, GB/s": None if dcn is None else dcn / 1e9,
    }
