"""Which system learns most, at equal size, from equal data: Poolformer or what it is compared with?

    python -m benchmarks.baselines --workdir=runs/baselines
    python -m benchmarks.baselines --workdir=runs/baselines --data=fsdd --seeds=3 \\
        --models=poolformer,sashimi,mamba,attention_center

Each is a small configuration of configs/baselines/, trained on the same crops in the same order, at
a constant rate, to two budgets: --steps, and the steps that it takes in the seconds in which
Poolformer takes twice as many. Steps of all are timed in turns first, and kept in steps.json.
What is done is not done again: the same command goes on after an interruption.

The tables are printed, and written to --out with the curves: bits per sample on validation and test
clips, the mean and range over seeds where there are several; of one seed, with the 95 % bootstrap
interval over the clips; and, of systems that differ in the backbone or in the mixer, the difference
of their test bits, clip by clip. With --scored=1000 so many clips of a second are drawn from the
first seed of each after the same seconds, and scored beside real test clips of whole words, which
models know only as far as --length; --classifier names the classifier of other data than digits.

Measured on two cores: docs/baselines.md.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from benchmarks.models import MODELS, config_of, seconds_of_steps
from benchmarks.side_by_side import define_out, define_rounds, publish
from launch import command_line
from poolformer_jax import experiment as ex
from poolformer_jax.data.datasets import SAMPLE_RATE
from poolformer_jax.evals.bootstrap import bootstrap_ratio
from poolformer_jax.evals.scores.table import HEADER, score_row
from poolformer_jax.files import read_json
from poolformer_jax.pages.plots import running_mean
from poolformer_jax.training.metrics_file import read_metrics

_FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of all runs.", required=True, flag_values=_FLAGS
)
_DATA = flags.DEFINE_list("data", ["digits", "fsdd"], "Data sets.", flag_values=_FLAGS)
_MODELS = flags.DEFINE_list("models", list(MODELS), "Which of these.", flag_values=_FLAGS)
_SEEDS = flags.DEFINE_integer("seeds", 1, "Runs of each.", lower_bound=1, flag_values=_FLAGS)
_STEPS = flags.DEFINE_integer("steps", 300, "Budget.", lower_bound=10, flag_values=_FLAGS)
_CROP = flags.DEFINE_integer("crop", 1920, "Samples of a training clip.", flag_values=_FLAGS)
_LENGTH = flags.DEFINE_integer("length", 4000, "Where words are cut.", flag_values=_FLAGS)
_CLIPS = flags.DEFINE_integer("clips", 200, "Evaluated clips.", lower_bound=2, flag_values=_FLAGS)
_SCORED = flags.DEFINE_integer(
    "scored", 0, "Clips to draw and score; 0 for none.", lower_bound=0, flag_values=_FLAGS
)
_CLASSIFIER = flags.DEFINE_string(
    "classifier", None, "Of launch.train_classifier, for --scored.", flag_values=_FLAGS
)
_ROUNDS = define_rounds(_FLAGS)
_OUT = define_out(_FLAGS)

SPLITS = ("validation", "test")
# They differ in the backbone, or else in the mixer.
PAIRS = [
    ("mamba", "poolformer_mamba"),
    ("sashimi_s4d", "poolformer_s4d"),
    ("poolformer", "poolformer_mamba"),
    ("poolformer", "poolformer_s4d"),
    ("poolformer", "attention_local"),
]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run: which model, on what, from which seed."""

    data: str
    model: str
    seed: int

    @property
    def folder(self) -> pathlib.Path:
        """Its workdir."""
        return _root() / self.data / self.model / str(self.seed)

    @property
    def config(self) -> str:
        """The configuration."""
        return config_of(self.model, self.data)


def main(argv):
    """Trains what is missing, prints."""
    del argv
    if _SCORED.value and len(_DATA.value) > 1:
        raise ex.UserError(f"--scored needs one data set, but --data={','.join(_DATA.value)}")
    # Seeds and data sets share their programs.
    jax.config.update("jax_compilation_cache_dir", str(_root() / "programs"))
    seconds = _seconds_of_steps(_MODELS.value)
    steps = budgets(seconds, _STEPS.value)
    cells = [
        Cell(data, model, seed)
        for seed in range(_SEEDS.value)
        for data in _DATA.value
        for model in _MODELS.value
    ]
    for cell in cells:
        for budget in sorted(steps[cell.model].values()):
            _train(cell, budget)
    tables = {f"On {data}": _table(data, cells, steps) for data in _DATA.value}
    first = [cell for cell in cells if cell.seed == 0]
    for data in _DATA.value:
        own = {cell.model: cell for cell in first if cell.data == data}
        tables[f"Differences on test clips of {data}"] = differences(own, steps)
    if _SCORED.value:
        tables[f"{_SCORED.value} clips of a second"] = _score(first, steps)
    publish("baselines", tables, _OUT.value)
    if _OUT.value is not None:
        figure = _plot(first, seconds)
        figure.savefig(pathlib.Path(_OUT.value).expanduser() / "baselines.svg")


def budgets(seconds: dict[str, float], steps: int) -> dict[str, dict[str, int]]:
    """For each model the steps of both budgets: `steps`, and `seconds`, in tens."""
    equal = {model: 2 * steps * seconds["poolformer"] / each for model, each in seconds.items()}
    return {
        model: {"steps": steps, "seconds": max(10, 10 * round(some / 10))}
        for model, some in equal.items()
    }


def _root() -> pathlib.Path:
    return pathlib.Path(str(_WORKDIR.value)).expanduser()


def _seconds_of_steps(models: Iterable[str]) -> dict[str, float]:
    """Median seconds of a training step of each model, measured in turns unless that is done."""
    path, models = _root() / "steps.json", list(dict.fromkeys(["poolformer", *models]))
    seconds = json.loads(path.read_text()) if path.exists() else {}
    if missing := [model for model in models if model not in seconds]:
        if seconds:
            raise ValueError(f"{path} has no times of {missing}; move it away to measure all again")
        seconds = seconds_of_steps(models, 4, _CROP.value, _ROUNDS.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(seconds, indent=1) + "\n")
    return {model: seconds[model] for model in models}


def _train(cell: Cell, steps: int) -> None:
    """Up to so many steps, and what the result is worth on validation and test clips."""
    missing = [split for split in SPLITS if not _result_path(cell, steps, split).exists()]
    if not missing:
        return
    every = 10 * steps  # Never before the end.
    experiment = ex.replace(
        ex.make_experiment(ex.named_config(cell.config)),
        train={
            "num_steps": steps,
            "schedule": "constant",
            "seed": cell.seed,
            "ema_decay": 0.95,  # An average of longer would still hold the initial parameters.
            "eval_every": every,
            "checkpoint_every": every,
            "log_every": 10,
        },
        data={
            "normalize": True,  # Of both data sets, as published.
            "train_len": _CROP.value,
            "crop": "random",
            "seed": cell.seed,
            "seq_len": _LENGTH.value,
            "eval_clips": _CLIPS.value,
        },
    )
    print(f"{cell.folder}, {steps} steps", flush=True)
    devices = jax.devices()[:1]
    ex.train(experiment, cell.folder, devices=devices)
    for split in missing:
        ex.evaluate_likelihood(cell.folder, split=split, step=steps, devices=devices)


def _score(cells: Sequence[Cell], steps: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """A row for the clips of each model after equal seconds, and last one for test clips."""
    rows, real = [], {}
    for cell in cells:
        num_steps = steps[cell.model]["seconds"]
        folder = cell.folder / f"samples_step{num_steps}"
        print(f"{folder}, {_SCORED.value} clips", flush=True)
        ex.sample(
            cell.folder,
            folder,
            num_clips=_SCORED.value,
            length=SAMPLE_RATE,
            batch_size=50,
            step=num_steps,
            devices=jax.devices()[:1],
        )
        scores = ex.score_samples(folder, workdir=cell.folder, classifier=_CLASSIFIER.value)
        values = {
            scored.name: dict(zip(HEADER[1:], score_row(scored)[1:], strict=True))
            for scored in scores.sets
        }
        rows.append({"model": cell.model, **values["samples"]})
        real = values["real_test"]
    return [*rows, {"model": "real test clips", **real}]


def _result_path(cell: Cell, steps: int, split: str = "test") -> pathlib.Path:
    return cell.folder / f"likelihood_{split}_step{steps}.json"


def _table(
    data: str, cells: Sequence[Cell], steps: dict[str, dict[str, int]]
) -> list[dict[str, Any]]:
    """A row for each model."""
    rows = []
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [cell for cell in cells if (cell.data, cell.model) == (data, model)]
        row: dict[str, Any] = {"model": model}
        for budget, num_steps in steps[model].items():
            row[f"steps, {budget} equal"] = num_steps
            for split in SPLITS:
                paths = [_result_path(cell, num_steps, split) for cell in own]
                row[f"{split}, {budget} equal"] = _spread([read_json(path) for path in paths])
        rows.append(row)
    return rows


def differences(cells: dict[str, Cell], steps: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """For each of `PAIRS` that is there, the bits of the first less those of the second."""
    rows = []
    for pair in PAIRS:
        if not cells.keys() >= set(pair):
            continue
        row: dict[str, Any] = {"model": pair[0], "less": pair[1]}
        for budget in ("steps", "seconds"):
            clips = [_clip_bits(cells[model], steps[model][budget]) for model in pair]
            np.testing.assert_array_equal(clips[0][1], clips[1][1], f"clips of {pair}")
            bits, samples = clips[0][0] - clips[1][0], clips[0][1]
            interval = bootstrap_ratio(bits, samples)
            assert interval is not None  # It is None for one clip alone.
            mean = bits.sum() / samples.sum()
            row[f"{budget} equal"] = f"{mean:.2f} ({interval.low:.2f} to {interval.high:.2f})"
        rows.append(row)
    return rows


def _clip_bits(cell: Cell, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Bits and samples of each test clip."""
    with _result_path(cell, steps).with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    samples = np.array([int(row["num_samples"]) for row in rows])
    return samples * np.array([float(row["bits_per_sample"]) for row in rows]), samples


def _plot(cells: Sequence[Cell], seconds: dict[str, float]) -> Figure:
    """Bits of training over steps and over seconds, a row for each data set."""
    names = list(dict.fromkeys(cell.data for cell in cells))
    figure = Figure(figsize=(9, 3.4 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), 2, sharey="row", squeeze=False)
    for cell in cells:
        rows = read_metrics(cell.folder / "metrics.jsonl")[0]
        rows = [row for row in rows if row["kind"] == "train"]
        steps, bits = (np.array([row[key] for row in rows]) for key in ("step", "bits_per_sample"))
        for axes, unit in zip(
            grid[names.index(cell.data)], (1.0, seconds[cell.model]), strict=True
        ):
            mean = running_mean(bits, max(1, len(bits) // 8))
            color = f"C{list(MODELS).index(cell.model)}"
            axes.plot(unit * steps, mean, color=color, lw=1.4, label=cell.model)
    for row, name in zip(grid, names, strict=True):
        row[0].set(xlabel="training step", ylabel=f"bits per sample of {name}, running mean")
        row[1].set_xlabel("seconds of training on this machine")
    grid[0, 0].legend(frameon=False, fontsize=7)
    return figure


def _spread(results: Sequence[dict[str, Any]]) -> str:
    """The mean and range of several seeds; of one, its interval over the clips."""
    bits = [result["bits_per_sample"] for result in results]
    ends = min(bits), max(bits)
    if len(results) == 1:
        interval = results[0]["confidence_interval"]
        ends = interval["low"], interval["high"]
    return f"{statistics.mean(bits):.3f} ({ends[0]:.3f} to {ends[1]:.3f})"


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
