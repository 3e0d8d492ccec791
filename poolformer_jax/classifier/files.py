"""A trained classifier as a folder: `classifier.json` and `classifier.npz`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from poolformer_jax.classifier.config import ClassifierConfig
from poolformer_jax.classifier.network import Stats, init_classifier
from poolformer_jax.config_checks import make_config
from poolformer_jax.files import read_json, write_json
from poolformer_jax.npz import read_npz, write_npz

DESCRIPTION = "classifier.json"
ARRAYS = "classifier.npz"

Folder = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedClassifier:
    """What `classify` needs, and where it comes from.

    Attributes:
      config: Architecture and front end.
      class_names: Names of the logits, in order.
      source: Where the parameters come from, for people: a file and its SHA-256, a command line.
      params: Nested dict of float32 arrays.
      stats: Running statistics.
      sha256: Of what decides its outputs, the configuration, names of classes and arrays; empty
        unless it was loaded.

    Raises:
      ValueError: On construction, if there are not as many different names as classes.
    """

    config: ClassifierConfig
    class_names: tuple[str, ...]
    source: Mapping[str, Any]
    params: Any
    stats: Stats
    sha256: str = dataclasses.field(default="", init=False)

    def __post_init__(self):
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"class_names {self.class_names} has a name twice")
        if len(self.class_names) != self.config.num_classes:
            raise ValueError(
                f"class_names {self.class_names} are {len(self.class_names)} for num_classes "
                f"{self.config.num_classes}; give one name for each class"
            )


def save_classifier(folder: Folder, classifier: SavedClassifier) -> None:
    """Writes a classifier, in place of one that is there.

    Each file appears whole or not at all. The description is written last and tells the SHA-256 of
    the arrays, so a pair of which one was replaced is noticed by `load_classifier`.
    """
    folder = pathlib.Path(folder)
    leaves = _named_leaves(classifier.params, classifier.stats)
    arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    description = {
        "config": dataclasses.asdict(classifier.config),
        "class_names": classifier.class_names,
        "source": dict(classifier.source),
        "arrays_sha256": write_npz(folder / ARRAYS, arrays),
    }
    write_json(folder / DESCRIPTION, description)


def load_classifier(folder: Folder) -> SavedClassifier:
    """Reads and verifies a classifier.

    Returns:
      The classifier, its arrays in NumPy.

    Raises:
      ValueError: If there is none, if a file is damaged, of another classifier or another version,
        or if an array is missing, surplus, of another shape or not float32.
    """
    description, stored = _read(folder)
    try:
        config = make_config(ClassifierConfig, description["config"])
    except ValueError as error:
        raise ValueError(
            f"{pathlib.Path(folder) / DESCRIPTION} is of another version: {error}; train or import "
            "the classifier again"
        ) from error
    shapes = jax.eval_shape(lambda key: init_classifier(config, key), jax.random.key(0))
    expected = _named_leaves(*shapes)
    faults = [f"{name} is missing" for name in expected.keys() - stored.keys()]
    faults += [f"{name} is unknown" for name in stored.keys() - expected.keys()]
    faults += [
        f"{name} is {stored[name].dtype} {stored[name].shape}, not {leaf.dtype} {leaf.shape}"
        for name, leaf in expected.items()
        if name in stored and (stored[name].dtype, stored[name].shape) != (leaf.dtype, leaf.shape)
    ]
    if faults:
        raise ValueError(f"{pathlib.Path(folder) / ARRAYS}: {'; '.join(sorted(faults))}")
    structure = jax.tree.structure(shapes)
    params, stats = jax.tree.unflatten(structure, [stored[name] for name in expected])
    content = {key: description[key] for key in ("config", "class_names", "arrays_sha256")}
    classifier = SavedClassifier(
        config=config,
        class_names=tuple(description["class_names"]),
        source=description["source"],
        params=params,
        stats=stats,
    )
    sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    object.__setattr__(classifier, "sha256", sha256)  # It is frozen, and new.
    return classifier


def _read(folder: Folder) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = pathlib.Path(folder)
    try:
        description = read_json(folder / DESCRIPTION)
    except FileNotFoundError as error:
        raise _missing(folder, error) from error
    except ValueError as error:
        raise ValueError(f"{folder / DESCRIPTION} cannot be read: {error}") from error
    missing = {"config", "class_names", "source", "arrays_sha256"} - set(description)
    if missing:
        raise ValueError(f"{folder / DESCRIPTION} lacks {', '.join(sorted(missing))}")
    try:
        return description, read_npz(folder / ARRAYS, sha256=description["arrays_sha256"])
    except FileNotFoundError as error:
        raise _missing(folder, error) from error
    except ValueError as error:
        raise ValueError(
            f"{error}; if a training is writing it, run this again, else train or import it again"
        ) from error


def _missing(folder: pathlib.Path, error: FileNotFoundError) -> ValueError:
    return ValueError(
        f"{folder} holds no classifier ({pathlib.Path(error.filename).name} is missing); make one "
        "with launch.train_classifier or launch.import_classifier"
    )


def _named_leaves(params: Any, stats: Stats) -> dict[str, Any]:
    """Arrays by path, `params/stem/conv/kernel`, in the order of the tree (params, stats)."""
    return {
        f"{group}/{jax.tree_util.keystr(path, simple=True, separator='/')}": leaf
        for group, tree in (("params", params), ("stats", stats))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
