"""An experiment: model, data and training configuration, and the workdir that holds it.

ConfigDicts end here. Beyond, there are frozen data classes that have been validated.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import Any, get_type_hints

from ml_collections import config_dict

from poolformer_jax.audio.codec import NUM_CODES, silence_code
from poolformer_jax.data.config import NUM_CLASSES, DataConfig
from poolformer_jax.models.config import EXECUTION_FIELDS, PoolformerConfig
from poolformer_jax.training.config import TrainConfig

CONFIG_FILE = "config.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a run is made of.

    Raises:
      ValueError: If the parts do not fit together.
    """

    model: PoolformerConfig = PoolformerConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self):
        for name in ("seq_len", "train_len"):
            length = getattr(self.data, name)
            if length is None:
                continue
            try:
                self.model.check_length(length)
            except ValueError as error:
                raise ValueError(f"data.{name} does not fit model.pool_factors: {error}") from None
        codec = self.data.codec
        for name, wanted in (
            ("num_codes", NUM_CODES[codec]),
            ("initial_code", silence_code(codec)),
        ):
            value = getattr(self.model, name)
            if value != wanted:
                raise ValueError(
                    f"model.{name} {value} does not fit data.codec {codec!r}; use {wanted}"
                )
        num_classes = NUM_CLASSES.get(self.data.name, 0)
        if self.model.num_classes not in (0, num_classes):
            raise ValueError(
                f"model.num_classes {self.model.num_classes} does not fit data.name "
                f"{self.data.name!r}, which has {num_classes or 'no'} classes; use {num_classes}"
            )
        if self.train.label_dropout and not self.model.num_classes:
            raise ValueError(
                f"train.label_dropout {self.train.label_dropout} needs a model with classes; set "
                f"model.num_classes to {num_classes}, or train.label_dropout to 0"
            )


_SECTIONS: dict[str, type] = {
    "model": PoolformerConfig,
    "data": DataConfig,
    "train": TrainConfig,
}


def default_config() -> config_dict.ConfigDict:
    """Every field with its default, locked: what configuration files start from."""
    sections = {
        name: {field.name: _default(section, field) for field in dataclasses.fields(section)}
        for name, section in _SECTIONS.items()
    }
    return config_dict.ConfigDict(sections).lock()


def make_experiment(config: Mapping[str, Any]) -> Experiment:
    """Validates a configuration of sections `model`, `data` and `train`.

    Raises:
      ValueError: For an unknown field or a value that cannot work; the message names the field.
    """
    unknown = set(config) - set(_SECTIONS)
    if unknown:
        raise ValueError(f"unknown section {sorted(unknown)}; known: {sorted(_SECTIONS)}")
    parts: dict[str, Any] = {}
    for name, section in _SECTIONS.items():
        values = {
            key: tuple(value) if isinstance(value, list) else value  # JSON knows no tuples.
            for key, value in config.get(name, {}).items()
        }
        known = {field.name for field in dataclasses.fields(section)}
        if not known >= set(values):
            raise ValueError(
                f"unknown field {sorted(set(values) - known)} in {name}; known: {sorted(known)}"
            )
        try:
            parts[name] = section(**values)
        except ValueError as error:
            raise ValueError(f"config.{name}: {error}") from None
    return Experiment(**parts)


def read_experiment(workdir: pathlib.Path) -> Experiment:
    """Reads the resolved configuration of a run.

    Raises:
      FileNotFoundError: If the workdir holds no run.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} holds no run: {path} is missing; train one with `python -m launch.train "
            f"--config=configs/digits.py --workdir={workdir}`"
        )
    try:
        return make_experiment(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is damaged or of another version: {error}") from error


def check_workdir(workdir: pathlib.Path, experiment: Experiment) -> list[str]:
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
    differences = _differences(read_experiment(workdir), experiment)
    fixed = [text for name, text in differences.items() if not _may_change(name)]
    if fixed:
        raise ValueError(
            f"--workdir={workdir} was made with another configuration (old -> new):\n  "
            + "\n  ".join(fixed)
            + "\nchoose another --workdir, or the old values"
        )
    return list(differences.values())


def check_evaluation(workdir: pathlib.Path, experiment: Experiment) -> None:
    """Checks that the parameters of the run in the workdir can be evaluated as configured.

    The data may be others, cut in another way, but what a code means is part of the model.

    Raises:
      FileNotFoundError: If the workdir holds no run.
      ValueError: If it was made with another model or codec (all differing fields are listed).
    """
    differences = _differences(read_experiment(workdir), experiment)
    fixed = [
        text
        for name, text in differences.items()
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


def write_experiment(workdir: pathlib.Path, experiment: Experiment) -> None:
    """Writes the resolved configuration; one process does, when nothing can fail any more."""
    text = json.dumps(dataclasses.asdict(experiment), indent=2)
    temporary = workdir / f"{CONFIG_FILE}.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(workdir / CONFIG_FILE)


def _differences(old: Experiment, new: Experiment) -> dict[str, str]:
    out = {}
    for section in _SECTIONS:
        for field in dataclasses.fields(getattr(old, section)):
            before = getattr(getattr(old, section), field.name)
            after = getattr(getattr(new, section), field.name)
            if before != after:
                name = f"{section}.{field.name}"
                out[name] = f"{name}: {before!r} -> {after!r}"
    return out


def _may_change(name: str) -> bool:
    section, field = name.split(".")
    return section == "train" or field in EXECUTION_FIELDS or name == "data.data_dir"


def _default(section: type, field: dataclasses.Field) -> Any:
    if field.default is not None:
        return field.default
    # None has no type of its own; a placeholder lets the command line set the field.
    (kind,) = (t for t in get_type_hints(section)[field.name].__args__ if t is not type(None))
    return config_dict.placeholder(kind)
