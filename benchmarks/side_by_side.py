"""What the benchmarks share: measuring ways in turns, and tables as text, Markdown and JSON."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from absl import flags

from poolformer_jax.aot.table import cells

K = TypeVar("K")
T = TypeVar("T")

Rows = Sequence[Mapping[str, Any]]
"""Of a table, each a mapping from columns to values; None where there is no value."""


def define_out(flag_values: flags.FlagValues) -> flags.FlagHolder:
    """--out."""
    text = "Folder for the tables as JSON and Markdown; they are printed in any case."
    return flags.DEFINE_string("out", None, text, flag_values=flag_values)


def define_rounds(flag_values: flags.FlagValues, default: int = 5) -> flags.FlagHolder:
    """--rounds."""
    return flags.DEFINE_integer(
        "rounds", default, "Turns; their median counts.", lower_bound=1, flag_values=flag_values
    )


def in_turns(measures: Mapping[K, Callable[[], T]], rounds: int) -> dict[K, list[T]]:
    """Takes every measure once in each round, so that all see the same weather.

    Returns:
      What each returned, one value a round.
    """
    values: dict[K, list[T]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            values[name].append(measure())
    return values


def medians(values: Mapping[K, Sequence[float]]) -> dict[K, float]:
    """The median of each list."""
    return {name: statistics.median(some) for name, some in values.items()}


def seconds_of(call: Callable[[], Any], at_least: float = 0.0) -> float:
    """Mean seconds of a call, which is repeated for at least so many seconds."""
    start, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - start < at_least:
        call()
        calls += 1
    return (time.perf_counter() - start) / calls


def time_programs(
    programs: Mapping[str, Callable[..., Any]],
    arguments: Sequence[Any],
    rounds: int,
    seconds: float,
) -> dict[str, dict[str, Any]]:
    """Compiles programs of the same arguments, and times them in turns.

    Args:
      programs: By name.
      arguments: Trees of arrays.
      rounds: Turns.
      seconds: Of each turn, about.

    Returns:
      Of each: milliseconds, their ratio to the fastest, and temporaries.
    """
    compiled: dict[str, Any] = {
        name: jax.jit(program).lower(*arguments).compile() for name, program in programs.items()
    }

    def seconds_of_calls(program: Any) -> float:
        return seconds_of(lambda: jax.block_until_ready(program(*arguments)), seconds)

    ways = {
        name: functools.partial(seconds_of_calls, program) for name, program in compiled.items()
    }
    in_turns(ways, 1)  # What is first is slow.
    times = medians(in_turns(ways, rounds))
    return {
        name: {
            "ms": 1e3 * times[name],
            "x fastest": times[name] / min(times.values()),
            "temporaries, MB": program.memory_analysis().temp_size_in_bytes / 1e6,
        }
        for name, program in compiled.items()
    }


def publish(name: str, tables: Mapping[str, Rows], out: str | None) -> None:
    """Prints tables; writes them to name.json and name.md in a folder if one is given.

    Args:
      name: Of the benchmark.
      tables: Rows by title.
      out: The folder; made if missing.
    """
    facts: dict[str, Any] = {
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}",
        "versions": {one: importlib.metadata.version(one) for one in ("jax", "jaxlib")},
    }
    texts = [f"### {title}\n\n{markdown(rows)}" for title, rows in tables.items() if rows]
    print("\n" + "\n".join(texts), flush=True)
    if out is not None:
        folder = pathlib.Path(out).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        heading = f"`{facts['command']}`, {facts['machine']}, jax {facts['versions']['jax']}"
        (folder / f"{name}.md").write_text("\n".join([heading, "", *texts]), encoding="utf-8")
        content = json.dumps(facts | {"tables": tables}, indent=1)
        (folder / f"{name}.json").write_text(content + "\n", encoding="utf-8")


def markdown(rows: Rows) -> str:
    """A table whose columns are all that any row has, in the order in which they come up."""
    header, *body = cells(rows)
    lines = [header, ["---"] * len(header)]
    lines += [[cell.replace("|", "\\|") for cell in line] for line in body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
