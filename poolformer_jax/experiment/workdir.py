"""A run's folder: its config.json, and whether another start of the run fits it."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from typing import Any, cast

from poolformer_jax import own_files
from poolformer_jax.buckets import AnyPath, check_writable, is_bucket, move
from poolformer_jax.experiment.configuration import (
    ClassifierExperiment,
    Experiment,
    Sections,
    T,
    experiment_values,
    flat_values,
    make_experiment,
)
from poolformer_jax.experiment.older_runs import current_values, stamp
from poolformer_jax.experiment.paths import workdir_path
from poolformer_jax.files import free_path, quoted, read_json, write_json
from poolformer_jax.layers.config import EXECUTION_FIELDS

_LOG = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
RUN_FILES = (CONFIG_FILE, "environment.json", "metrics.jsonl", "checkpoints")
"""What every training writes to its workdir."""
EXPORTED = ("parameters.npz", "parameters.json")
"""In place of all but the first, in the folder of an exported model."""
PROFILE = "profile"
"""What one with `profile_steps` writes too."""

# Of a run and of what was made with it; the configuration last, which tells what the rest is.
_SET_ASIDE = (
    "checkpoints",
    "damaged_checkpoints",
    "metrics.jsonl",
    "tensorboard",
    PROFILE,
    "samples",
    "likelihood_*",
    "report.html",
    "classifier*.json",
    "classifier.npz",
    "environment.json",
    CONFIG_FILE,
)

PLACES = ("data.data_dir", "data.noise_dir")


def read_experiment(workdir: str | os.PathLike[str], kind: type[T] = Experiment) -> T:  # type: ignore[assignment]
    """Reads the resolved configuration of a run, also of an older version.

    Raises:
      FileNotFoundError: If the workdir holds no run.
      ValueError: If it is damaged, of another kind, or of a version whose runs cannot be read.
    """
    workdir = workdir_path(workdir)
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} holds no run: {path} is missing; train one with "
            f"`{kind.TRAIN_COMMAND} --workdir={workdir}`"
        )
    values = read_values(path)
    if ("augment" in values) != (kind is ClassifierExperiment):
        held, wanted = ("a", "no") if "augment" in values else ("no", "a")
        raise ValueError(
            f"{workdir} holds the run of {held} classifier, where that of {wanted} classifier is "
            f"needed; train one with `{kind.TRAIN_COMMAND}`, or name another workdir"
        )
    try:
        values = current_values(values)
        sections = [field.name for field in dataclasses.fields(cast(Any, kind))]
        if missing := [name for name in sections if name not in values]:
            raise ValueError(f"it has no section {missing}")
        return make_experiment(values, kind)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or of another version: {error}; use the version that made the run "
            f"({_made_by(workdir)}), or train into a new workdir"
        ) from error


def read_values(path: AnyPath) -> dict[str, Any]:
    """What config.json holds, unchecked.

    Raises:
      ValueError: If it is damaged.
    """
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; restore it from a copy, or train into a new workdir") from error


def write_experiment(workdir: str | os.PathLike[str], experiment: Sections) -> None:
    """Writes the resolved configuration; one process does, when nothing can fail any more."""
    write_json(workdir_path(workdir) / CONFIG_FILE, stamp(experiment_values(experiment)))


def set_aside_run(workdir: AnyPath) -> None:
    """Moves a run, and what was made with it, to `before_restart` in the workdir."""
    found = [path for pattern in _SET_ASIDE for path in sorted(workdir.glob(pattern))]
    if found:
        target = free_path(workdir / "before_restart")
        target.mkdir()
        for path in found:
            move(path, target / path.name)
        _LOG.info("starting again from step 0; the run until now is in %s", target)


def check_workdir(
    workdir: str | os.PathLike[str], experiment: Sections, *, restart: bool = False
) -> list[str]:
    """Makes the workdir, and checks that it can be written and fits the experiment.

    Fields that say how to compute (platform, scan, remat, mesh), where data are kept, and the
    training recipe may change between the starts of a run; the model and its data may not, unless
    the run is to start again from step 0.

    Returns:
      The changes since the last start, one "field: old -> new" each.

    Raises:
      ValueError: If the workdir was made with another model or data (all differing fields are
        listed), or is neither a path nor a folder in a bucket.
      OSError: If the workdir cannot be written, or holds no run but files of a run's names.
    """
    workdir = workdir_path(workdir)
    try:
        if is_bucket(workdir):
            check_writable(workdir)
        else:
            workdir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=workdir):
                pass
    except OSError as error:
        if is_bucket(workdir):
            raise
        raise OSError(
            f"cannot write to --workdir={workdir} ({error.strerror}); choose a writable folder"
        ) from error
    if (workdir / EXPORTED[0]).exists():
        raise ValueError(
            f"--workdir={workdir} holds a trained model without what training needs to go on; "
            f"choose another, and start from this one with --config.train.init_from={workdir}"
        )
    is_run = restart or (workdir / CONFIG_FILE).exists()
    own_files.check(workdir, RUN_FILES, own=RUN_FILES if is_run else ())
    if restart or not is_run:
        return []
    found = _differences(read_experiment(workdir, type(experiment)), experiment)
    fixed = [text for name, text in found.items() if not _may_change(name)]
    if fixed:
        raise ValueError(
            f"--workdir={workdir} was made with another configuration (old -> new):\n  "
            + "\n  ".join(fixed)
            + "\nchoose another --workdir, the old values, or --restart to begin again"
        )
    return list(found.values())


def check_evaluation(workdir: AnyPath, experiment: Experiment) -> None:
    """Checks that the parameters of the run in the workdir can be evaluated as configured.

    The data may be others, cut in another way, but what a code means is part of the model.

    Raises:
      FileNotFoundError: If the workdir holds no run.
      ValueError: If it was made with another model or codec (all differing fields are listed).
    """
    if fixed := model_differences(read_experiment(workdir), experiment):
        raise ValueError(
            f"--config is of another model than that in --workdir={workdir} (old -> new):\n  "
            + "\n  ".join(fixed)
            + "\ntake the old values, or leave --config out to use the run's own configuration"
        )


def model_differences(old: Experiment, new: Experiment) -> list[str]:
    """Why one model's parameters are of no use to another, one "field: old -> new" each."""
    return [
        text
        for name, text in _differences(old, new).items()
        if (name.startswith("model.") and not _may_change(name)) or name == "data.codec"
    ]


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
    if name == "train.init_from":  # Where a run came from, whatever it is told later.
        return False
    return section in ("train", "mesh") or field in EXECUTION_FIELDS or name in PLACES


def _made_by(workdir: AnyPath) -> str:
    """The version that trained in a workdir, as far as its environment.json tells."""
    try:
        about = read_json(workdir / "environment.json")
    except (OSError, ValueError):
        return "there is no environment.json to tell which"
    version, commit = about.get("poolformer_jax"), about.get("git_commit")
    return f"{quoted(version)}, commit {quoted(commit)}, says environment.json"
