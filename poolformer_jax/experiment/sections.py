"""Experiments as data classes of sections: configuration files, config.json, the workdir.

ConfigDicts end here. Beyond, there are frozen data classes that have been validated.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints, runtime_checkable

from ml_collections import config_dict

from poolformer_jax.models.poolformer.config import EXECUTION_FIELDS

CONFIG_FILE = "config.json"

_PLACES = ("data.data_dir", "data.noise_dir")


@runtime_checkable
class Sections(Protocol):
    """A data class whose fields are data classes, the sections of a configuration.

    Attributes:
      TRAIN_COMMAND: What makes a run of it, but for the workdir.
    """

    TRAIN_COMMAND: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=Sections)


def default_sections(kind: type[Sections]) -> config_dict.ConfigDict:
    """Every field with its default, locked: what configuration files start from."""
    sections = {
        name: {field.name: _default(section, field) for field in dataclasses.fields(section)}
        for name, section in _section_types(kind).items()
    }
    return config_dict.ConfigDict(sections).lock()


def make_sections(config: Mapping[str, Any], kind: type[T]) -> T:
    """Validates a configuration.

    Raises:
      ValueError: For an unknown field or a value that cannot work; the message names the field.
    """
    sections = _section_types(kind)
    unknown = set(config) - set(sections)
    if unknown:
        raise ValueError(f"unknown section {sorted(unknown)}; known: {sorted(sections)}")
    parts: dict[str, Any] = {}
    for name, section in sections.items():
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
    return kind(**parts)


def read_sections(workdir: pathlib.Path, kind: type[T]) -> T:
    """Reads the resolved configuration of a run.

    Raises:
      FileNotFoundError: If the workdir holds no run.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{workdir} holds no run: {path} is missing; train one with "
            f"`{kind.TRAIN_COMMAND} --workdir={workdir}`"
        )
    try:
        return make_sections(json.loads(path.read_text(encoding="utf-8")), kind)
    except ValueError as error:
        raise ValueError(f"{path} is damaged or of another version: {error}") from error


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
    found = differences(read_sections(workdir, type(experiment)), experiment)
    fixed = [text for name, text in found.items() if not may_change(name)]
    if fixed:
        raise ValueError(
            f"--workdir={workdir} was made with another configuration (old -> new):\n  "
            + "\n  ".join(fixed)
            + "\nchoose another --workdir, or the old values"
        )
    return list(found.values())


def check_mounted(flag: str, path: pathlib.Path) -> None:
    """Raises ValueError for the address of a bucket, which would become a local folder."""
    if re.match(r"\w+:/", str(path)):
        raise ValueError(
            f"--{flag}={path} is not a path of a mounted file system; mount the bucket (for "
            "example with gcsfuse) at the same path on all hosts"
        )


def write_experiment(workdir: pathlib.Path, experiment: Sections) -> None:
    """Writes the resolved configuration; one process does, when nothing can fail any more."""
    text = json.dumps(dataclasses.asdict(experiment), indent=2)
    temporary = workdir / f"{CONFIG_FILE}.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(workdir / CONFIG_FILE)


def differences(old: Sections, new: Sections) -> dict[str, str]:
    """Compares two experiments of a kind; returns "section.field: old -> new" by section.field."""
    out = {}
    for section in _section_types(type(old)):
        for field in dataclasses.fields(getattr(old, section)):
            before = getattr(getattr(old, section), field.name)
            after = getattr(getattr(new, section), field.name)
            if before != after:
                name = f"{section}.{field.name}"
                out[name] = f"{name}: {before!r} -> {after!r}"
    return out


def may_change(name: str) -> bool:
    """Whether section.field may change between the starts of a run, see `check_workdir`."""
    section, field = name.split(".")
    return section == "train" or field in EXECUTION_FIELDS or name in _PLACES


def _section_types(kind: type[Sections]) -> dict[str, type]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _default(section: type, field: dataclasses.Field) -> Any:
    if field.default is not None:
        return field.default
    # None has no type of its own; a placeholder lets the command line set the field.
    (kind,) = (t for t in get_type_hints(section)[field.name].__args__ if t is not type(None))
    return config_dict.placeholder(kind)
