"""Programs compiled ahead of time for a TPU that need not be there, as rows of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from absl import flags
from jax.sharding import SingleDeviceSharding

from poolformer_jax.aot.chips import chip_of, describe_topology, prepare_environment
from poolformer_jax.aot.compiling import compile_program
from poolformer_jax.aot.report import Consumer


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


def compile_programs(
    name: str, programs: Mapping[str, Callable[..., Any]], arguments: Sequence[Any]
) -> dict[str, dict[str, Any]]:
    """Compiles programs of the same arguments for one device of `devices_of`.

    Args:
      name: Of the chip or topology.
      programs: By name.
      arguments: Trees of arrays or of their shapes.

    Returns:
      Of each: seconds of compilation, HBM traffic, TFLOP and temporaries; or why it can't be.
    """
    place = SingleDeviceSharding(devices_of(name)[0])
    placed = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place), arguments
    )
    rows: dict[str, dict[str, Any]] = {}
    for program_name, program in programs.items():
        try:
            traced = jax.jit(program).trace(*placed)
            report, seconds = compile_program(traced, chip_of(name))
        except (ValueError, RuntimeError) as error:
            rows[program_name] = {"not possible": str(error).splitlines()[0]}
            continue
        row = rows[program_name] = {"compile, s": seconds}
        if report.work is not None:
            row |= {"HBM, MB": report.work.hbm_bytes / 1e6, "TFLOP": report.work.flops / 1e12}
        row["temporaries, MB"] = report.temp_bytes / 1e6
    return rows


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
