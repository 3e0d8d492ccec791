"""What does a training step cost: seconds and memory here, bytes on a TPU; what is pooling worth?

    python -m benchmarks.train_step
    python -m benchmarks.train_step --models=digits --lengths=2000,4000,8000,16000,32000,64000
    python -m benchmarks.train_step --tpu=v5e

A model is a configuration, by its name or file. With `-no_pooling` behind it, it has the same
residual blocks, all at the rate of the samples. `sc09` is the published baseline. Steps are whole:
loss, gradient, update. They are taken in turns, on random codes. `products alone` is the time of
the step's matrix products at the rate of one product of the baseline, measured in the same turns.
Over several lengths, time and temporaries are fitted by a power of the length.

With --tpu=v5e (or a topology, v5e:2x4) the steps are compiled ahead of time and nothing is run. The
largest consumers of HBM bytes are named.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
from launch import command_line
from poolformer_jax import sharding
from poolformer_jax.aot.chips import chip_of
from poolformer_jax.aot.compiling import compile_program
from poolformer_jax.aot.report import read_work
from poolformer_jax.aot.table import columns
from poolformer_jax.experiment.configuration import Experiment, make_experiment, replace
from poolformer_jax.experiment.lowering import Programs
from poolformer_jax.experiment.named import named_config

_NO_POOLING = "-no_pooling"

_FLAGS = flags.FlagValues()
_MODELS = flags.DEFINE_list(
    "models", ["sc09", f"sc09{_NO_POOLING}", "digits"], "Which.", flag_values=_FLAGS
)
_LENGTHS = flags.DEFINE_list(
    "lengths",
    None,
    "Samples of each clip, rounded up to what a model can read; the configuration's by default.",
    flag_values=_FLAGS,
)
_BATCH_SIZE = command_line.define_batch_size(
    _FLAGS, "Clips on each device; 1 here and 4 on a TPU by default."
)
_SET = flags.DEFINE_multi_string(
    "model", [], "A field of all models, such as remat=none; may be repeated.", flag_values=_FLAGS
)
_ROUNDS = define_rounds(_FLAGS)
_TOP = flags.DEFINE_integer("top", 10, "Consumers of bytes to name.", flag_values=_FLAGS)
_TPU = tpu.define_tpu(_FLAGS)
_OUT = define_out(_FLAGS)

Cell = tuple[str, int]
"""A model and a length."""

_PRODUCTS: Cell = ("", 0)


def main(argv):
    """Measures or compiles, prints."""
    del argv
    devices = tpu.devices_of(_TPU.value) if _TPU.value else jax.devices()[:1]
    mesh = sharding.make_mesh(devices=devices)
    experiments = {}
    for name, length in itertools.product(_MODELS.value, map(int, _LENGTHS.value or ["0"])):
        experiment = _experiment(name, length, mesh.size)
        experiments[name, experiment.data.training_length] = experiment
    tables = _compile(experiments, mesh) if _TPU.value else _time(experiments, mesh)
    publish("train_step", tables, _OUT.value)


def _experiment(name: str, length: int, num_devices: int) -> Experiment:
    """A configuration for this benchmark, of its own length if that is 0.

    Raises:
      UserError: If there is none of that name.
    """
    experiment: Experiment = make_experiment(named_config(name.removesuffix(_NO_POOLING)))
    model: Any = experiment.model
    fields: dict[str, Any] = dict(setting.split("=", 1) for setting in _SET.value)
    fields["platform"] = "tpu" if _TPU.value else jax.default_backend()
    if not _TPU.value:
        fields = {"dtype": "float32"} | fields
    if name.endswith(_NO_POOLING):
        outer = (1 + model.unet) * sum(model.layers[:-1])
        fields |= {"pool_factors": (), "layers": (outer + model.layers[-1],)}
    multiple = model.chunk_multiple
    length = -(-(length or experiment.data.training_length) // multiple) * multiple
    batch_size = (_BATCH_SIZE.value or (4 if _TPU.value else 1)) * num_devices
    return replace(
        experiment,
        model=fields,
        data={"seq_len": length, "train_len": None},
        train={"batch_size": batch_size},
    )


def _time(experiments: Mapping[Cell, Experiment], mesh: Any) -> dict[str, list[dict[str, Any]]]:
    steps: dict[Cell, Callable[[], float]] = {}
    temporaries: dict[Cell, float] = {}
    flops: dict[Cell, int] = {}
    rows: dict[Cell, dict[str, Any]] = {}
    for (name, length), experiment in experiments.items():
        programs = Programs(experiment, mesh)
        step = programs.trace_train_step().lower().compile()
        memory = step.memory_analysis()
        flops[name, length] = read_work(step.as_text()).flops
        temporaries[name, length] = memory.temp_size_in_bytes
        rows[name, length] = {
            "model": name,
            "clips": experiment.train.batch_size,
            "length": length,
            "temporaries, MB": memory.temp_size_in_bytes / 1e6,
            "state and batch, MB": memory.argument_size_in_bytes / 1e6,
        }
        steps[name, length] = timed_step(experiment, mesh, programs.init_state(), step)
    products, product_flops = _products()
    times = in_turns(steps | {_PRODUCTS: products}, _ROUNDS.value)
    rate = product_flops / statistics.median(times.pop(_PRODUCTS))
    seconds = medians(times)
    for cell, row in rows.items():
        row |= {"s/step": seconds[cell], "from": min(times[cell]), "to": max(times[cell])}
        row["samples/s"] = row["clips"] * row["length"] / seconds[cell]
        row |= {"TFLOP": flops[cell] / 1e12, "products alone, s": flops[cell] / rate}
    return {
        f"A training step on {jax.default_backend()}": list(rows.values()),
        "Without pooling, beside the same blocks with it": _pooling(seconds, temporaries),
        "Growth with the length T": _growth(seconds, temporaries),
    }


def timed_step(experiment: Experiment, mesh: Any, state: Any, step: Any) -> Callable[[], float]:
    """Returns a function that takes a step and tells its seconds, once it has taken one."""
    shape = (experiment.train.batch_size, experiment.data.training_length)
    codes = np.random.default_rng(0).integers(0, experiment.model.num_codes, shape, np.int32)
    rows = {"tokens": codes, "lengths": np.full(shape[0], shape[1], np.int32)}
    if experiment.model.num_classes:
        rows["labels"] = np.zeros(shape[0], np.int32)
    batch = sharding.put_batch(mesh, rows)

    def take_step() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    take_step()
    return functools.partial(seconds_of, take_step)


def _products() -> tuple[Callable[[], float], int]:
    """Ten products as in the baseline's layers: a function that tells their seconds, and FLOPs."""
    x, wider = jnp.ones((16_000, 128)), jnp.full((128, 256), 1 / 128)

    @jax.jit
    def multiply(x: jax.Array, wider: jax.Array) -> jax.Array:
        for _ in range(5):
            x = (x @ wider) @ wider.T
        return x

    def take() -> None:
        jax.block_until_ready(multiply(x, wider))

    take()
    return functools.partial(seconds_of, take), 10 * 2 * x.size * wider.shape[1]


def _pooling(*costs: Mapping[Cell, float]) -> list[dict[str, Any]]:
    return [
        {"model": name, "length": length}
        | {
            f"{what}, x": cost[f"{name}{_NO_POOLING}", length] / cost[name, length]
            for what, cost in zip(("time", "temporaries"), costs, strict=True)
        }
        for name, length in costs[0]
        if (f"{name}{_NO_POOLING}", length) in costs[0]
    ]


def _growth(*costs: Mapping[Cell, float]) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(name for name, _ in costs[0]):
        lengths = [length for model, length in costs[0] if model == name]
        if len(lengths) > 1:
            row: dict[str, Any] = {"model": name, "T": f"{lengths[0]:,} to {lengths[-1]:,}"}
            for what, cost in zip(("time", "temporaries"), costs, strict=True):
                exponent = fit_exponent(lengths, [cost[name, length] for length in lengths])
                row[f"{what} ~ T^"] = exponent
            rows.append(row)
    return rows


def fit_exponent(lengths: Sequence[int], costs: Sequence[float]) -> float:
    """The p for which costs ~ lengths^p, by least squares of the logarithms."""
    slope, _ = np.polyfit(np.log(lengths), np.log(costs), 1)
    return float(slope)


def _compile(experiments: Mapping[Cell, Experiment], mesh: Any) -> dict[str, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    details: dict[str, list[dict[str, Any]]] = {}
    bytes_moved: dict[Cell, float] = {}
    temporaries: dict[Cell, float] = {}
    for (name, length), experiment in experiments.items():
        clips = experiment.train.batch_size // mesh.size
        row: dict[str, Any] = {"model": name, "clips a chip": clips, "length": length}
        rows.append(row)
        try:
            traced = Programs(experiment, mesh).trace_train_step()
            report, seconds = compile_program(traced, chip_of(_TPU.value))
        except RuntimeError as error:  # It does not fit.
            row["not possible"] = str(error).splitlines()[0]
            continue
        row |= columns(report) | {"compile, s": seconds}
        temporaries[name, length] = report.temp_bytes
        if (work := report.work) is None:
            bytes_moved[name, length] = math.nan
            continue
        bytes_moved[name, length] = work.hbm_bytes
        for kind, moved in work.collectives.items():
            row[f"{kind}, MB"] = moved.num_bytes / 1e6
        what = f"of {name}, {length:,} samples"
        details[f"Largest consumers of bytes {what}"] = tpu.consumer_rows(
            work.consumers[: _TOP.value], work.hbm_bytes
        )
        details[f"Kernels {what}"] = [
            {"kernel": kernel, "runs": moved.count, "HBM, MB": moved.num_bytes / 1e6}
            for kernel, moved in work.kernels.items()
        ]
    growth = [
        {("bytes ~ T^" if key == "time ~ T^" else key): value for key, value in row.items()}
        for row in _growth(bytes_moved, temporaries)
    ]
    title = f"A training step on {mesh.size} x {_TPU.value.partition(':')[0]}, each chip"
    return {title: rows, "Growth with the length T": growth, **details}


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
