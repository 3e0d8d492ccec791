"""The named configurations: the files of `configs/`, with or without a clone."""

from __future__ import annotations

import importlib.util
import pathlib

from ml_collections import config_dict

_PACKAGE = pathlib.Path(__file__).parents[1]
_INSTALLED, _CLONED = _PACKAGE / "configs", _PACKAGE.parent / "configs"
# Beside an installed package, `configs` may be anybody's.
_FOLDER = _INSTALLED if _INSTALLED.is_dir() else _CLONED


def named_configs() -> dict[str, pathlib.Path]:
    """The file of each configuration, by its name: `digits`, `ablations/digits_lru`."""
    return {
        path.relative_to(_FOLDER).with_suffix("").as_posix(): path
        for path in sorted(_FOLDER.rglob("[!_]*.py"))
    }


def config_file(name: str) -> pathlib.Path:
    """The file of a configuration, given by its name or by a path.

    Raises:
      ValueError: If there is neither; the message lists the names.
    """
    files = named_configs()
    if name in files:
        return files[name]
    if not pathlib.Path(name).is_file():
        raise ValueError(f"{name} is neither a file nor one of the names {', '.join(files)}")
    return pathlib.Path(name)


def named_config(name: str) -> config_dict.ConfigDict:
    """A configuration by its name or file.

    Args:
      name: Such as `digits`; what follows a colon is the argument of its `get_config`.

    Raises:
      ValueError: If there is none of that name; the message lists the names.
    """
    stem, colon, argument = name.partition(":")
    path = config_file(stem)
    spec = importlib.util.spec_from_file_location(f"_configs_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*([argument] if colon else []))
