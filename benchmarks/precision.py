"""Does a model learn as well with bfloat16 activations as with float32?

    python -m benchmarks.precision --config=configs/digits.py --out=FOLDER

Trains the first steps of a configuration with both, from several seeds, and compares how far they
get. With --out the curves are drawn as well, in precision.svg.
"""

from __future__ import annotations

import itertools
import pathlib
import statistics
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from benchmarks.side_by_side import define_out, publish
from launch import command_line
from poolformer_jax import experiment as ex
from poolformer_jax.experiment.configuration import Experiment, replace
from poolformer_jax.pages.plots import running_mean
from poolformer_jax.training.metrics_file import read_metrics

_FLAGS = flags.FlagValues()
_CONFIG = command_line.define_config(_FLAGS)
_STEPS = flags.DEFINE_integer("steps", 300, "Of each run.", lower_bound=2, flag_values=_FLAGS)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each type.", lower_bound=2, flag_values=_FLAGS)
_OUT = define_out(_FLAGS)

TYPES = ("float32", "bfloat16")
Curves = Mapping[str, Sequence[np.ndarray]]
"""Bits per sample of every step, of each seed, by the type of the activations."""


def main(argv):
    """Trains, compares."""
    del argv
    experiment, steps = ex.make_experiment(_CONFIG.value), _STEPS.value
    curves: dict[str, list[np.ndarray]] = {dtype: [] for dtype in TYPES}
    final: dict[str, list[float]] = {dtype: [] for dtype in TYPES}
    for seed, dtype in itertools.product(range(_SEEDS.value), TYPES):
        training, validation = _train(experiment, dtype, seed, steps)
        curves[dtype].append(training)
        final[dtype].append(validation)
    last = max(1, steps // 6)
    rows = [
        {
            "activations": dtype,
            **{f"seed {seed}": bits for seed, bits in enumerate(final[dtype])},
            "mean": statistics.mean(final[dtype]),
            "deviation of seeds": statistics.stdev(final[dtype]),
            f"training, last {last} steps": float(np.mean([c[-last:] for c in curves[dtype]])),
        }
        for dtype in TYPES
    ]
    publish("precision", {f"Validation bits per sample after {steps} steps": rows}, _OUT.value)
    if _OUT.value is not None:
        _plot(curves).savefig(pathlib.Path(_OUT.value).expanduser() / "precision.svg")


def _train(experiment: Experiment, dtype: str, seed: int, steps: int) -> tuple[np.ndarray, float]:
    """Bits per sample of every step, and at the end on the validation split."""
    experiment = replace(
        experiment,
        model={"dtype": dtype},
        train={"seed": seed, "num_steps": steps, "eval_every": steps, "checkpoint_every": steps},
    )
    with tempfile.TemporaryDirectory(prefix="poolformer_benchmark_") as workdir:
        ex.train(experiment, workdir)
        rows, _ = read_metrics(pathlib.Path(workdir) / "metrics.jsonl")
    training, validation = (
        [row["bits_per_sample"] for row in rows if row["kind"] == kind]
        for kind in ("train", "validation")
    )
    return np.array(training), validation[-1]


def _plot(curves: Curves) -> Figure:
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for dtype, color in zip(TYPES, ("#3f83f0", "#e0761f"), strict=True):
        for seed, bits in enumerate(curves[dtype]):
            mean = running_mean(bits, max(1, len(bits) // 15))
            label = dtype if seed == 0 else None
            axes.plot(range(1, len(bits) + 1), mean, color=color, lw=1.4, alpha=0.8, label=label)
    axes.set_xlabel("training step")
    axes.set_ylabel("bits per sample, running mean")
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
