"""A run's folder: its config.json, and whether another start of the run fits it."""

from __future__ import annotations

import json
import pathlib
import re
import tempfile
from typing import Any

from poolformer_jax.experiment.configuration import (
    Experiment,
    Sections,
    T,
    experiment_values,
    flat_values,
    make_experiment,
)
from poolformer_jax.files import write_json
from poolformer_jax.layers.config import EXECUTION_FIELDS

CONFIG_FILE = "config.json"

PLACES = ("data.data_dir", "data.noise_dir")


def read_experiment(workdir: pathlib.Path, kind: type[T] = Experiment) -> T:  # type: ignore[assignment]
    """Reads the resolved configuration of a run.

    Raises:
      FileNotFoundError: If the workdir holds no run.
      ValueError: If it is damaged or of a version whose runs cannot be read any more.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} holds no run: {path} is missing; train one with "
            f"`{kind.TRAIN_COMMAND} --workdir={workdir}`"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return make_experiment(_current_layout(values), kind)
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged or of another version: {error}; use the version that made the run "
            "(environment.json), or train into a new workdir"
        ) from error


def write_experiment(workdir: pathlib.Path, experiment: Sections) -> None:
    """Writes the resolved configuration; one process does, when nothing can fail any more."""
    write_json(workdir / CONFIG_FILE, experiment_values(experiment))


def check_workdir(workdir: pathlib.Path, experiment: Sections) -> list[str]:
    """Makes the workdir, and checks that it can be written and fits the experiment.

    Fields that say how to compute (platform, scan, remat), where data are kept, and the training
    recipe may change between the starts of a run; the model and its data may not.

    Returns:
      The changes since the last start, one "field: old -> new" each.

    Raises:
      ValueError: If the workdir was made with another model or data (all differing fields are
        listed), or is no path of a file system.
      OSError: If the workdir cannot be written.
    """
    check_mounted("workdir", workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write to --workdir={workdir} ({error.strerror}); choose a writable folder"
        ) from error
    if not (workdir / CONFIG_FILE).exists():
        return []
    found = _differences(read_experiment(workdir, type(experiment)), experiment)
    fixed = [text for name, text in found.items() if not _may_change(name)]
    if fixed:
        raise ValueError(
            f"--workdir={workdir} was made with another configuration (old -> new):\n  "
            + "\n  ".join(fixed)
            + "\nchoose another --workdir, or the old values"
        )
    return list(found.values())


def check_evaluation(workdir: pathlib.Path, experiment: Experiment) -> None:
    """Checks that the parameters of the run in the workdir can be evaluated as configured.

    The data may be others, cut in another way, but what a code means is part of the model.

    Raises:
      FileNotFoundError: If the workdir holds no run.
      ValueError: If it was made with another model or codec (all differing fields are listed).
    """
    found = _differences(read_experiment(workdir), experiment)
    fixed = [
        text
        for name, text in found.items()
        if (name.startswith("model.") and not _may_change(name)) or name == "data.codec"
    ]
    if fixed:
        raise ValueError(
            f"--config is of another model than that in --workdir={workdir} (old -> new):\n  "
            + "\n  ".join(fixed)
            + "\ntake the old values, or leave --config out to use the run's own configuration"
        )


def check_mounted(flag: str, path: pathlib.Path) -> None:
    """Raises ValueError for the address of a bucket, which would become a local folder."""
    if re.match(r"\w+:/", str(path)):
        raise ValueError(
            f"--{flag}={path} is not a path of a mounted file system; mount the bucket (for "
            "example with gcsfuse) at the same path on all hosts"
        )


def _differences(old: Sections, new: Sections) -> dict[str, str]:
    """Returns "section.field: old -> new" by section.field."""
    before, after = flat_values(old), flat_values(new)
    return {
        name: f"{name}: {before.get(name)!r} -> {after.get(name)!r}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    }


def _may_change(name: str) -> bool:
    section, _, field = name.partition(".")
    return section == "train" or field in EXECUTION_FIELDS or name in PLACES


def _current_layout(values: dict[str, Any]) -> dict[str, Any]:
    """Before the mixer had a section of its own, its fields were among the model's."""
    model = values.get("model", {})
    if "recurrent_width" not in model:
        return values
    names = {
        "recurrent_width": "recurrent_width",
        "num_gate_blocks": "num_gate_blocks",
        "complex_recurrence": "complex",
        "decay_exponent": "decay_exponent",
        "max_phase": "max_phase",
    }
    mixer = {new: model[old] for old, new in names.items() if old in model}
    rest = {name: value for name, value in model.items() if name not in names}
    return {**values, "model": {"kind": "poolformer", "mixer": {"kind": "rg_lru", **mixer}, **rest}}
