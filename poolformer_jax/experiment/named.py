"""The named configurations: the files of `configs/`, with or without a clone."""

from __future__ import annotations

import inspect
import pathlib
import re
import sys
import traceback
import types
import typing
from typing import Literal

from ml_collections import config_dict

from poolformer_jax.experiment.errors import UserError
from poolformer_jax.experiment.paths import local_path
from poolformer_jax.files import plain, quoted

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
      UserError: If there is neither; the message lists the names.
    """
    files = named_configs()
    if name in files:
        return files[name]
    try:
        path = local_path("config", name)
        if path.is_file():
            return path
        what = "a folder, not a file or" if path.is_dir() else "neither a file nor"
    except (ValueError, OSError):  # No path at all.
        what = "neither a file nor"
    raise UserError(f"{plain(name, 200)} is {what} one of the names {', '.join(files)}")


def named_config(name: str) -> config_dict.ConfigDict:
    """A configuration by its name or file.

    Args:
      name: Such as `digits`; what follows a colon is the argument of its `get_config`, and must be
        one of the values of its `Literal`, if the parameter is annotated with one.

    Raises:
      UserError: If there is none of that name (the message lists the names), or the file does not
        make one; the message names the line.
    """
    stem, colon, argument = name.partition(":")
    path = config_file(stem)
    try:
        return _run(path, [argument] if colon else [])
    except (Exception, SystemExit) as error:  # Whatever the user's code raises.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines.append(error.lineno)
        if isinstance(error, UserError):
            if not lines:
                raise
            said = str(error)  # Of a configuration that this one starts from.
        else:
            said = f"{type(error).__name__}: {_text_of(error)}"
        raise _mistake(path, lines[-1] if lines else None, said) from error


def _text_of(error: BaseException) -> str:
    """What an error says, without the place, and without all fields for one that is misspelt."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    if error.args and isinstance(error.args[0], KeyError):  # As ml_collections puts it.
        said = str(error.args[0].args[0])
    return re.sub(r"Other fields present: .*?(?=Did you mean|$)", "", said, flags=re.DOTALL)


def _run(path: pathlib.Path, arguments: list[str]) -> config_dict.ConfigDict:
    """What get_config of a file returns."""
    if path.suffix == ".json":
        raise _mistake(path, 1, "a configuration is a Python file with get_config(), no JSON file")
    source = path.read_bytes()
    if b"\0" in source:  # For which Python has no line.
        raise _mistake(path, source[: source.index(b"\0")].count(b"\n") + 1, "a NUL byte; no text")
    # Known to Python, as data classes that a file defines want it.
    module = sys.modules[f"_configs_{path.stem}"] = types.ModuleType(f"_configs_{path.stem}")
    module.__file__ = str(path)
    exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    get_config = module.__dict__.get("get_config")
    if not callable(get_config):
        raise _mistake(path, None, "it defines no function get_config()")
    line = getattr(getattr(get_config, "__code__", None), "co_firstlineno", None)
    given = f"what follows the colon, {arguments[0]!r}" if arguments else "nothing after a colon"
    try:
        bound = inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        raise _mistake(path, line, f"get_config() is given {given}: {error}") from error
    for name, value in bound.arguments.items():
        hint = get_config.__annotations__.get(name)
        if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
            known = ", ".join(f"{one!r}" for one in typing.get_args(hint))
            raise _mistake(path, line, f"get_config() is given {given}; known: {known}")
    config = get_config(*arguments)
    if not isinstance(config, config_dict.ConfigDict):
        raise _mistake(
            path,
            line,
            f"get_config() returns {quoted(config)}; it must return a ConfigDict, such as "
            "default_config() with some fields changed",
        )
    return config


def _mistake(path: pathlib.Path, line: int | None, text: str) -> UserError:
    """One line that names the line of a file."""
    place = f"{path}, line {line}" if line else str(path)
    return UserError(f"{plain(place)}: {plain(' '.join(text.split())[:500], 500)}")
