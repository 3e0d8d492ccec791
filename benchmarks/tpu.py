"""Programs compiled ahead of time for a TPU that need not be there, as rows of a table."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

import jax
from absl import flags

from poolformer_jax.aot.chips import chip_of, describe_topology, prepare_environment
from poolformer_jax.aot.report import Consumer, ProgramReport, read_program


def define_tpu(flag_values: flags.FlagValues) -> flags.FlagHolder:
    """--tpu."""
    text = "Compile for this chip, such as v5e, or topology, such as v5e:2x4, and run nothing."
    return flags.DEFINE_string("tpu", None, text, flag_values=flag_values)


def devices_of(name: str) -> list[jax.Device]:
    """The devices of a topology; of a chip alone, one."""
    prepare_environment()
    # Compilation is timed; and what was compiled for another machine cannot be loaded on this one.
    jax.config.update("jax_enable_compilation_cache", False)
    if ":" in name:
        return describe_topology(name)
    single = "1x1" if chip_of(name).name.endswith("e") else "2x2x1"
    return describe_topology(f"{name}:{single}")[:1]


def compile_report(traced: Any, topology: str) -> tuple[ProgramReport, float]:
    """Lowers, compiles and reads a traced program; returns the report and the seconds."""
    start = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - start
    return read_program(compiled, chip_of(topology)), seconds


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


def consumer_rows(consumers: Iterable[Consumer], total: int) -> list[dict[str, Any]]:
    """A table of what moves the bytes."""
    return [
        {
            "operation": consumer.operation,
            "source": shorten(consumer.source),
            "runs": consumer.count,
            "HBM, MB": consumer.hbm_bytes / 1e6,
            "share": f"{consumer.hbm_bytes / total:.1%}",
        }
        for consumer in consumers
    ]


def shorten(source: str) -> str:
    """The path of a traced operation without what says nothing about where it is from."""
    path = re.sub(r"\btranspose\(jvp\((\w*)\)\)", "backward", source)
    path = re.sub(r"\bjvp\((\w*)\)", "forward", path)
    path = re.sub(r"rematted_computation", "recomputed", path)
    dropped = r"jit\(\w+\)|while|body|closed_call|checkpoint|layers|\w+\._merge|\w+\.recur"
    return "/".join(part for part in path.split("/") if not re.fullmatch(dropped, part))
