"""How long do the programs of an experiment take to trace, to lower and to compile?

    python -m benchmarks.compile_time

A training step, an evaluation step and a sampling step, each made anew in every round; JAX's caches
are emptied before. They are not run. With --tpu=v5e they are compiled ahead of time for that chip.
Here, initialisation is timed too: several programs, whose runs are in the time.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from benchmarks import tpu
from benchmarks.side_by_side import define_out, define_rounds, in_turns, publish, seconds_of
from launch import command_line
from poolformer_jax import sharding
from poolformer_jax.experiment.configuration import Experiment, make_experiment, replace
from poolformer_jax.experiment.lowering import Programs
from poolformer_jax.experiment.named import named_config

_FLAGS = flags.FlagValues()
_CONFIGS = flags.DEFINE_list(
    "configs", ["sc09", "digits"], "Names of configurations, or files.", flag_values=_FLAGS
)
_BATCH_SIZE = command_line.define_batch_size(_FLAGS, "Clips on each device.", 1)
_ROUNDS = define_rounds(_FLAGS, 3)
_TPU = tpu.define_tpu(_FLAGS)
_OUT = define_out(_FLAGS)

_PROGRAMS: dict[str, Callable[[Programs], Any]] = {
    "training step": Programs.trace_train_step,
    "evaluation step": Programs.trace_evaluation_step,
    "sampling step": Programs.trace_sampling_step,
}
_INITIALISATION = "initialisation, run too"


def main(argv):
    """Measures, prints."""
    del argv
    devices = tpu.devices_of(_TPU.value) if _TPU.value else jax.devices()[:1]
    mesh = sharding.make_mesh(devices=devices)
    measures = {
        (config, program): functools.partial(_measure, _maker(config, mesh), trace)
        for config in _CONFIGS.value
        for program, trace in _PROGRAMS.items()
    }
    if not _TPU.value:
        for config in _CONFIGS.value:
            measures[config, _INITIALISATION] = functools.partial(_init, _maker(config, mesh))
    uses_cache = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        seconds = in_turns(measures, _ROUNDS.value)
    finally:
        jax.config.update("jax_enable_compilation_cache", uses_cache)
    rows = []
    for (config, program), stages in seconds.items():
        columns = [statistics.median(column) for column in zip(*stages, strict=True)]
        names = ("trace, s", "lower, s", "compile, s") if len(columns) > 1 else ()
        row = {"configuration": config, "program": program, "all, s": sum(columns)}
        rows.append(row | dict(zip(names, columns, strict=False)))
    publish("compile_time", {f"For {_TPU.value or jax.default_backend()}": rows}, _OUT.value)


def _maker(name: str, mesh: Any) -> Callable[[], Programs]:
    configured: Experiment = make_experiment(named_config(name))
    experiment = replace(
        configured,
        model={"platform": "tpu" if _TPU.value else jax.default_backend()},
        train={"batch_size": _BATCH_SIZE.value * mesh.size},
    )
    return lambda: Programs(experiment, mesh)


def _init(make: Callable[[], Programs]) -> tuple[float, ...]:
    """Seconds of several programs in turns, which are run: nothing else takes their time."""
    programs = make()
    jax.clear_caches()
    return (seconds_of(programs.init_state),)


def _measure(make: Callable[[], Programs], trace: Callable[[Programs], Any]) -> tuple[float, ...]:
    """Seconds of tracing, lowering, compiling."""
    programs = make()
    jax.clear_caches()
    start = time.perf_counter()
    traced = trace(programs)
    is_traced = time.perf_counter()
    lowered = traced.lower()
    is_lowered = time.perf_counter()
    lowered.compile()
    return is_traced - start, is_lowered - is_traced, time.perf_counter() - is_lowered


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
