"""What do Poolformer and the systems that it is compared with cost, at equal size?

    python -m benchmarks.models
    python -m benchmarks.models --size=published --rounds=2
    python -m benchmarks.models --size=published --tpu=v5e

Each is a configuration of configs/baselines/, in its small size or as published. Training steps are
whole, loss, gradient and update, on as many samples each; they are taken in turns, and so are
blocks of drawn samples. With --tpu=v5e (or a topology, v5e:2x4) the training steps are compiled
ahead of time, and nothing is run.

Measured on two cores: the tables in docs/baselines.md.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags

from benchmarks import tpu
from benchmarks.side_by_side import (
    define_out,
    define_rounds,
    in_turns,
    medians,
    publish,
    seconds_of,
)
from benchmarks.train_step import timed_step
from launch import command_line
from poolformer_jax import sharding
from poolformer_jax.aot.chips import chip_of
from poolformer_jax.aot.compiling import compile_program
from poolformer_jax.aot.table import columns
from poolformer_jax.experiment.configuration import Experiment, make_experiment, replace
from poolformer_jax.experiment.lowering import Programs
from poolformer_jax.experiment.named import named_config
from poolformer_jax.models.sequence_model import count_params
from poolformer_jax.sampling.streaming import StreamingGenerator

MODELS = (
    "poolformer",
    "sashimi",
    "mamba",
    "attention_center",
    "sashimi_s4d",
    "sashimi_ar",
    "mamba_large",
    "attention_local",
    "poolformer_s4d",
    "poolformer_mamba",
)

_FLAGS = flags.FlagValues()
_MODELS = flags.DEFINE_list("models", list(MODELS), "Which of these.", flag_values=_FLAGS)
_SIZE = flags.DEFINE_enum(
    "size", "small", ["small", "published"], "For digits, or for SC09.", flag_values=_FLAGS
)
_LENGTH = flags.DEFINE_integer(
    "length", None, "Samples of a clip; 1,920 if small, else 16,000.", flag_values=_FLAGS
)
_BATCH_SIZE = command_line.define_batch_size(
    _FLAGS, "Clips on each device; 4 by default, here of the published size 1."
)
_DRAWN = flags.DEFINE_integer(
    "drawn", 8, "Clips drawn side by side; 0 leaves sampling out.", flag_values=_FLAGS
)
_ROUNDS = define_rounds(_FLAGS)
_TPU = tpu.define_tpu(_FLAGS)
_OUT = define_out(_FLAGS)


def main(argv):
    """Measures or compiles, prints."""
    del argv
    small = _SIZE.value == "small"
    devices = tpu.devices_of(_TPU.value) if _TPU.value else jax.devices()[:1]
    mesh = sharding.make_mesh(devices=devices)
    clips = (_BATCH_SIZE.value or (4 if small or _TPU.value else 1)) * mesh.size
    length = _LENGTH.value or (1_920 if small else 16_000)
    platform = "tpu" if _TPU.value else jax.default_backend()
    experiments = {
        model: _experiment(config_of(model, "digits" if small else ""), clips, length, platform)
        for model in _MODELS.value
    }
    size = f"{clips} clips of {length:,} samples"
    if _TPU.value:
        title = f"A training step on {mesh.size} x {_TPU.value.partition(':')[0]}, {size}"
        tables = {title: _compile(experiments, mesh)}
    else:
        tables = {f"A training step on {platform}, {size}": _time_steps(experiments, mesh)}
        if _DRAWN.value:
            tables[f"{_DRAWN.value} clips drawn side by side"] = _time_draws(experiments)
    publish("models", tables, _OUT.value)


def config_of(model: str, data: str) -> str:
    """The configuration of a model for a data set, `digits` or `fsdd`; the published one for ''."""
    if model == "poolformer":
        return data or "sc09"
    return f"baselines/{model}:{data}"


def seconds_of_steps(models: Sequence[str], clips: int, length: int, rounds: int) -> dict[str, Any]:
    """Median seconds of a training step of each small model, in turns.

    Args:
      models: Of `MODELS`.
      clips: Of a step.
      length: Samples of a clip.
      rounds: Turns.
    """
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    platform = jax.default_backend()
    steps = {}
    for model in models:
        experiment = _experiment(config_of(model, "digits"), clips, length, platform)
        steps[model], _ = _step(experiment, mesh)
    return medians(in_turns(steps, rounds))


def _experiment(name: str, clips: int, length: int, platform: str) -> Experiment:
    experiment: Experiment = make_experiment(named_config(name))
    fields = {"platform": platform} | ({} if platform == "tpu" else {"dtype": "float32"})
    return replace(
        experiment,
        model=fields,
        data={"seq_len": length, "train_len": None},
        train={"batch_size": clips},
    )


def _step(experiment: Experiment, mesh: Any) -> tuple[Callable[[], float], dict[str, Any]]:
    """A function that takes a training step and tells its seconds, and what is known of it."""
    programs = Programs(experiment, mesh)
    lowered = programs.trace_train_step().lower()
    start = time.perf_counter()
    step = lowered.compile()
    compilation = time.perf_counter() - start
    memory = step.memory_analysis()
    facts = {"temporaries, MB": memory.temp_size_in_bytes / 1e6, "compile, s": compilation}
    return timed_step(experiment, mesh, programs.init_state(), step), facts


def _time_steps(experiments: dict[str, Experiment], mesh: Any) -> list[dict[str, Any]]:
    steps, facts = {}, {}
    for model, experiment in experiments.items():
        steps[model], facts[model] = _step(experiment, mesh)
    times = in_turns(steps, _ROUNDS.value)
    return _rows(experiments, times, "s/step", facts)


def _time_draws(experiments: dict[str, Experiment]) -> list[dict[str, Any]]:
    draws, facts = {}, {}
    for name, experiment in experiments.items():
        model = experiment.model.build()
        params = model.init_params(jax.random.key(0))
        block = 10 * model.chunk_multiple
        stream = StreamingGenerator(
            model, params, jax.random.key(0), _DRAWN.value, block_samples=block
        )
        seconds = functools.partial(seconds_of, functools.partial(next, stream), 0.5)
        facts[name] = {"first block, s": seconds_of(functools.partial(next, stream))}
        draws[name] = lambda seconds=seconds, block=block: seconds() / block
    times = in_turns(draws, _ROUNDS.value)
    return _rows(experiments, times, "s/sample", facts)


def _rows(
    experiments: dict[str, Experiment],
    times: dict[str, list[float]],
    unit: str,
    facts: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """Of a table: the median, its range, and how it compares with the first model."""
    seconds = medians(times)
    first = next(iter(seconds.values()))
    return [
        {
            "model": model,
            "parameters": count_params(experiment.model.build()),
            unit: seconds[model],
            "from": min(times[model]),
            "to": max(times[model]),
            f"{next(iter(seconds))} = 1": seconds[model] / first,
            **facts[model],
        }
        for model, experiment in experiments.items()
    ]


def _compile(experiments: dict[str, Experiment], mesh: Any) -> list[dict[str, Any]]:
    rows = []
    for model, experiment in experiments.items():
        row: dict[str, Any] = {
            "model": model,
            "parameters": count_params(experiment.model.build()),
        }
        rows.append(row)
        traced = Programs(experiment, mesh).trace_train_step()
        try:
            report, seconds = compile_program(traced, chip_of(_TPU.value))
        except RuntimeError as error:  # It does not fit.
            row["not possible"] = str(error).splitlines()[0]
            continue
        row |= columns(report) | {"compile, s": seconds}
    return rows


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
