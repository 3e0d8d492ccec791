"""Scaling: the runs of a ladder of sizes beside each other. Nothing here loads JAX."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from poolformer_jax import interruption, own_files
from poolformer_jax.buckets import AnyPath, is_bucket
from poolformer_jax.evals.scaling.study import Study, TrainedRun, make_study
from poolformer_jax.experiment.configuration import Experiment, flat_values
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.pages import offer_scaling_page
from poolformer_jax.experiment.paths import local_path, workdir_path
from poolformer_jax.experiment.workdir import read_experiment
from poolformer_jax.files import quoted, write_json
from poolformer_jax.layers.config import EXECUTION_FIELDS
from poolformer_jax.pages import require_matplotlib
from poolformer_jax.pages.run_files import load_environment, load_metrics, read_numbers

_LOG = logging.getLogger(__name__)

TRAINING = 3
"""FLOPs of a training step, in those of its forward pass: the backward pass takes two.

Source: Kaplan et al. 2020, arXiv:2001.08361, section 2.1.
"""

# What a bit per sample depends on, besides the model.
_MEASURED_ON = ("name", "partial", "build_seed", "codec", "normalize", "seq_len", "eval_clips")

# Fields of the model in which sizes differ.
_SIZES = {"width", "layers", "recurrent_width", "num_gate_blocks", "mlp_expansion"}


@interruption.keeps("earlier results are as they were")
def report_scaling(
    workdirs: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] = "scaling.html",
    json: str | os.PathLike[str] | None = None,
) -> Study:
    """Compares runs of several sizes: a table, laws, and a page with plots.

    Args:
      workdirs: Of runs, finished or not.
      out: The page; it needs Matplotlib, the extra `report`, and is left out without it.
      json: File for the numbers, if any.

    Raises:
      UserError: As `read_scaling`, or if somebody else's file is in the way.
    """
    with user_errors():
        page, values = local_path("out", out), None if json is None else local_path("json", json)
        study = _study(workdirs)
        if values is not None:
            own = [values.name] if own_files.is_result(values, "runs", "laws") else []
            own_files.claim(values.parent, [values.name], own=own)
            write_json(values, study.values)
        offer_scaling_page(page, study)
    _LOG.info(study.text)
    return study


def read_scaling(workdirs: Sequence[str | os.PathLike[str]]) -> Study:
    """Reads the files of runs, and fits the laws that they allow.

    A run without a validation after its first step is left out, and a note says so.

    Raises:
      UserError: If a run is missing, damaged or named twice, none has a validation, or they were
        validated on different data.
    """
    with user_errors():
        return _study(workdirs)


def plot_scaling(workdirs: Sequence[str | os.PathLike[str]]) -> Any:
    """Plots the loss against parameters, samples, FLOPs and chips, as a Matplotlib figure.

    Raises:
      UserError: As `read_scaling`, or if Matplotlib is missing.
    """
    with user_errors():
        require_matplotlib()
        from poolformer_jax.pages.plots import plot_scaling

        return plot_scaling(_study(workdirs))


def _study(workdirs: Sequence[str | os.PathLike[str]]) -> Study:
    paths = [workdir_path(workdir) for workdir in workdirs]
    if not paths:
        raise ValueError("no run to report; name the workdirs of some")
    places = [path if is_bucket(path) else path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{path} is named twice; name every run once")
    names = [place.name for place in places]
    if len({*names}) < len(names):
        names = [str(path) for path in paths]
    experiments: dict[str, Experiment] = {
        name: read_experiment(path) for name, path in zip(names, paths, strict=True)
    }
    _check_comparable(experiments)
    notes, runs = _differences(experiments), []
    for (name, experiment), path in zip(experiments.items(), paths, strict=True):
        run, about = _read_run(name, experiment, path)
        notes += about
        if run is not None:
            runs.append(run)
    if not runs:
        raise ValueError(f"there is nothing to report: {' '.join(notes)}")
    return make_study(runs, notes)


def _check_comparable(experiments: Mapping[str, Experiment]) -> None:
    """Raises ValueError if the runs were validated on different data."""
    for field in _MEASURED_ON:
        found = {name: getattr(one.data, field) for name, one in experiments.items()}
        if len({*found.values()}) > 1:
            told = ", ".join(f"{value!r} ({name})" for name, value in found.items())
            raise ValueError(
                f"the runs cannot be compared: data.{field} is {told}; report them apart"
            )


def _differences(experiments: Mapping[str, Experiment]) -> list[str]:
    """A note, if the models differ in more than their size."""
    flat = [flat_values(experiment) for experiment in experiments.values()]
    names = dict.fromkeys(name for values in flat for name in values if name.startswith("model."))
    differing = [
        name
        for name in names
        if name.rpartition(".")[2] not in _SIZES | EXECUTION_FIELDS
        and any(values.get(name) != flat[0].get(name) for values in flat)
    ]
    if not differing:
        return []
    return [f"The models differ in more than their size: {', '.join(differing)}."]


def _read_run(
    name: str, experiment: Experiment, workdir: AnyPath
) -> tuple[TrainedRun | None, list[str]]:
    """A run, if it has been validated, and what to know of it."""
    environment = load_environment(workdir)
    training, validation = load_metrics(workdir)
    for key in ("num_parameters", "num_devices"):
        if type(value := environment.get(key)) is not int or value < 1:
            raise ValueError(
                f"{workdir / 'environment.json'} has {key} {quoted(value)}, not a number from 1; "
                "restore it from a copy, or leave the run out"
            )
    chips = environment["num_devices"]
    bits = read_numbers(validation, "bits_per_sample")
    steps = np.array([record["step"] for record in validation if "bits_per_sample" in record], int)
    valid = np.isfinite(bits) & (steps > 0)
    if not valid.any():
        return None, [f"{name} is left out: it has no finite validation after its first step."]
    steps, bits = steps[valid], bits[valid]
    notes = []
    train, length = experiment.train, experiment.data.training_length
    samples = _samples_until(training, steps)
    if samples is None:
        samples = steps * float(train.batch_size * length)
        notes.append(f"The samples of {name} include padding: its log does not tell their number.")
    per_step = TRAINING * experiment.model.flops_per_sample * train.batch_size * length
    run = TrainedRun(
        name=name,
        parameters=environment["num_parameters"],
        chips=chips,
        num_steps=train.num_steps,
        last_step=max(int(steps[-1]), training[-1]["step"] if training else 0),
        steps=steps,
        bits=bits,
        samples=samples,
        flops=steps * per_step,
        chip_hours=_hours_until(training, steps) * chips,
    )
    return run, notes


def _samples_until(training: Sequence[Mapping[str, Any]], steps: np.ndarray) -> np.ndarray | None:
    """Samples in the loss of all steps until some; None if a step is missing, or its count."""
    counts = {record["step"]: record.get("count") for record in training}
    each = [counts.get(step) for step in range(1, int(steps[-1]) + 1)]
    if any(not isinstance(count, int | float) for count in each):
        return None
    return np.cumsum(np.array(each, np.float64))[steps - 1]


def _hours_until(training: Sequence[Mapping[str, Any]], steps: np.ndarray) -> np.ndarray:
    """Hours of all steps until some, at the speeds that were reported meanwhile; NaN if none."""
    reported = [record for record in training if record.get("seconds_per_step")]
    if not reported:
        return np.full(len(steps), math.nan)
    seconds = np.array([record["seconds_per_step"] for record in reported], np.float64)
    ends = np.array([record["step"] for record in reported])
    # A report is of the steps since the one before.
    each = seconds[np.searchsorted(ends, np.arange(1, steps[-1] + 1)).clip(max=len(ends) - 1)]
    return np.cumsum(each)[steps - 1] / 3600
