"""Trained models as small folders: those that come with the package, and exported runs.

Such a folder has the run's `config.json`, `parameters.npz`, the averaged parameters in half
precision, and `parameters.json`, their step and SHA-256. It serves wherever a run's folder is read.
Those of the package are in `poolformer_jax/pretrained/`, each with its card.
"""

from __future__ import annotations

import logging
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

import poolformer_jax
from poolformer_jax import own_files
from poolformer_jax.buckets import AnyPath
from poolformer_jax.data.datasets import DATASETS
from poolformer_jax.experiment.configuration import Experiment, replace
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.paths import local_path
from poolformer_jax.experiment.workdir import (
    CONFIG_FILE,
    EXPORTED,
    model_differences,
    read_experiment,
    write_experiment,
)
from poolformer_jax.files import read_json, write_json, write_whole
from poolformer_jax.npz import read_npz, write_npz

if TYPE_CHECKING:
    from poolformer_jax.models.sequence_model import Params

_LOG = logging.getLogger(__name__)

FOLDER = pathlib.Path(poolformer_jax.__file__).parent / "pretrained"
"""One folder for each, with a README.md: what it is, how it was made and how good it is."""

_MODELS = ("digits",)
# Of all data sets that eSpeak NG speaks.
_CLASSIFIERS = {
    name: "digits_classifier"
    for name, dataset in DATASETS.items()
    if dataset.builder == DATASETS["digits"].builder
}
_ARRAYS, _DESCRIPTION = EXPORTED
_FILES = (*EXPORTED, CONFIG_FILE)


def pretrained_classifier(data: str) -> pathlib.Path:
    """The folder of the classifier for a data set.

    Raises:
      ValueError: If none comes with the package.
    """
    if data not in _CLASSIFIERS:
        raise ValueError(
            f"classifier is missing, and none for {data} comes with the "
            "package: make one with launch.train_classifier, or bring the published one with "
            "launch.import_classifier, and pass its folder"
        )
    return FOLDER / _CLASSIFIERS[data]


def load_pretrained(name: str) -> tuple[Experiment, Params]:
    """A model that comes with the package, in float32: its experiment and its parameters.

    Raises:
      UserError: If there is none of that name; the message lists them.
    """
    from poolformer_jax.experiment.restore import restore_params

    with user_errors():
        folder = _folder_of(name)
        experiment: Experiment = read_experiment(folder)
    return experiment, restore_params(folder, experiment)[0]


def unpack_pretrained(name: str, workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Copies a model that comes with the package to a workdir, which clips and scores can join.

    Returns:
      The workdir.

    Raises:
      UserError: If there is none of that name, or the workdir holds something else.
    """
    with user_errors():
        folder, workdir = _folder_of(name), local_path("workdir", workdir)
        files = {file: (folder / file).read_bytes() for file in _FILES}
        found = {file: workdir / file for file in _FILES if (workdir / file).exists()}
        if found and (_ARRAYS not in found or found[_ARRAYS].read_bytes() != files[_ARRAYS]):
            raise ValueError(
                f"--workdir={workdir} holds another model than --pretrained={name}; choose another"
            )
        try:
            for file, content in files.items():  # The arrays first: what is cut off can go on.
                if file not in found:
                    write_whole(workdir / file, content)
        except OSError as error:
            raise ValueError(
                f"cannot copy the model to {workdir} ({error.strerror}); choose a folder that can "
                "be written with --workdir"
            ) from error
    return workdir


def read_initial_params(init_from: str, experiment: Experiment) -> tuple[Params, str]:
    """Reads the parameters that `train.init_from` names.

    Returns:
      (parameters, whole and in NumPy, and the SHA-256 of their file).

    Raises:
      ValueError: If it is no pretrained model, one of another architecture or codec, or damaged.
    """
    import jax

    folder = (
        FOLDER / init_from
        if init_from in _MODELS
        else local_path("config.train.init_from", init_from)
    )
    what = f"train.init_from={init_from}"
    if not (folder / _ARRAYS).is_file():
        raise ValueError(
            f"{what} is neither a model that comes with the package ({', '.join(_MODELS)}) nor a "
            "folder that launch.export wrote; make one of a run with: python -m launch.export "
            f"--workdir={init_from} --out=FOLDER"
        )
    if differences := model_differences(read_experiment(folder), experiment):
        raise ValueError(
            f"{what} is another model (its value -> yours):\n  "
            + "\n  ".join(differences)
            + "\ntake its values, or train.init_from=None to start from the seed"
        )
    model = experiment.model.build()
    stored, description = _read(folder, jax.eval_shape(model.init_params, jax.random.key(0)))
    return stored, description["sha256"]


def export(
    workdir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    step: int | str = "best",
) -> pathlib.Path:
    """Writes the averaged parameters of a run, in half precision, as a folder to pass on.

    Args:
      workdir: Of the run.
      out: The folder; made if missing.
      step: Of the checkpoint, see `restore_params`.

    Returns:
      The folder.

    Raises:
      UserError: If there is no such checkpoint, files of others are in the way, the folder cannot
        be written, or a parameter is too large for half precision.
    """
    import jax
    from flax.traverse_util import flatten_dict

    from poolformer_jax.experiment.restore import restore_params

    with user_errors():
        out = local_path("out", out)
        if (out / "checkpoints").exists():
            raise ValueError(f"--out={out} holds a run; choose another folder")
        own_files.check(out, _FILES)
        experiment: Experiment = read_experiment(workdir)
        own_files.claim(out, _FILES)
    params, number = restore_params(workdir, experiment, step=step)
    arrays = {
        "/".join(path): np.asarray(leaf).astype(np.float16)
        for path, leaf in flatten_dict(jax.device_get(params)).items()
    }
    with user_errors():
        if large := [name for name, array in arrays.items() if not np.all(np.isfinite(array))]:
            raise ValueError(f"{', '.join(large)}: too large for half precision, or not finite")
    with user_errors():
        sha256 = write_npz(out / _ARRAYS, arrays, compress=True)
        write_json(out / _DESCRIPTION, {"step": number, "weights": "ema", "sha256": sha256})
        # Folders of this machine are nobody else's concern.
        origin = experiment.train.init_from if experiment.train.init_from in _MODELS else None
        written = replace(experiment, data={"data_dir": None}, train={"init_from": origin})
        write_experiment(out, written)
    megabytes = (out / _ARRAYS).stat().st_size / 1e6
    _LOG.info("%s holds the averaged weights of step %d, %.1f MB", out, number, megabytes)
    return out


def read_exported(folder: AnyPath, abstract: Any) -> tuple[Any, int]:
    """Reads and verifies what `export` wrote.

    Args:
      folder: An exported model's.
      abstract: Shapes and shardings of the parameters; the types are float32.

    Returns:
      (parameters, the step of their checkpoint).

    Raises:
      ValueError: If a file is damaged or its arrays are those of another model.
    """
    import jax

    stored, description = _read(folder, abstract)
    return jax.tree.map(
        lambda array, like: jax.device_put(array, like.sharding), stored, abstract
    ), int(description["step"])


def _read(folder: AnyPath, abstract: Any) -> tuple[Any, dict[str, Any]]:
    """The parameters in float32, as NumPy arrays, and their description."""
    import jax
    from flax.traverse_util import unflatten_dict

    description = read_json(folder / _DESCRIPTION)
    try:
        arrays = read_npz(folder / _ARRAYS, sha256=str(description.get("sha256")))
    except ValueError as error:
        raise ValueError(f"{error}; copy or export it again") from error
    stored = unflatten_dict(
        {tuple(name.split("/")): array.astype(np.float32) for name, array in arrays.items()}
    )
    found, wanted = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (stored, abstract))
    )
    if found != wanted:
        raise ValueError(
            f"{folder / _ARRAYS} holds other arrays than its {CONFIG_FILE} makes; copy or export "
            "it again"
        )
    return stored, description


def _folder_of(name: str) -> pathlib.Path:
    if name not in _MODELS:
        known = ", ".join(_MODELS)
        raise ValueError(f"--pretrained={name} does not come with the package; known: {known}")
    return FOLDER / name
