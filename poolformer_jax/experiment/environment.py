"""The start of a run: what it is and what it runs on is written down and said."""

from __future__ import annotations

import importlib.metadata
import logging
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

import poolformer_jax
from poolformer_jax import own_files
from poolformer_jax.buckets import AnyPath
from poolformer_jax.experiment.configuration import Sections
from poolformer_jax.experiment.workdir import CONFIG_FILE, RUN_FILES, write_experiment
from poolformer_jax.files import write_json

_LOG = logging.getLogger(__name__)

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
)


def record_start(
    workdir: AnyPath,
    experiment: Sections,
    *,
    num_parameters: int,
    clips: str,
    mesh: Mesh,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes config.json and environment.json; one process does, when nothing can fail any more.

    Args:
      workdir: Of the run.
      experiment: What is run.
      num_parameters: Of its model.
      clips: How many clips there are, in words.
      mesh: Devices.
      changes: What `check_workdir` found changed since the last start.

    Returns:
      What environment.json holds.
    """
    environment = describe_environment(num_parameters)
    is_run = (workdir / CONFIG_FILE).exists()  # Perhaps of a version that kept no list.
    own_files.claim(workdir, RUN_FILES, own=RUN_FILES if is_run else ())
    write_experiment(workdir, experiment)
    write_json(workdir / "environment.json", environment)
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    devices = f"{mesh.size} {environment['platform']} devices{axes and f': {axes}'}"
    _LOG.info("%s parameters | %s | %s", f"{num_parameters:,}", clips, devices)
    for change in changes:
        _LOG.info("changed since the last start: %s", change)
    return environment


def describe_environment(num_parameters: int) -> dict[str, Any]:
    """Facts to write beside the results of a run."""
    return {
        "poolformer_jax": poolformer_jax.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "num_processes": jax.process_count(),
        "num_parameters": num_parameters,
    }


def _git_commit() -> str:
    """The commit of the package's checkout, marked if files differ from it."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=pathlib.Path(poolformer_jax.__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
    return result.stdout.strip()
