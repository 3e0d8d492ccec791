"""From a command line to the flags of a binary, as often as wanted in one process."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from poolformer_jax.experiment import UserError, config_file


def parse(
    flag_values: flags.FlagValues, argv: list[str], positional: Sequence[str]
) -> Sequence[str]:
    """Parses afresh, whatever was parsed before.

    Returns:
      The name of the program and the positional arguments.

    Raises:
      UserError: If there is a mistake.
    """
    argv = _with_config_file(argv)
    for name in [name for name in flag_values if name.startswith("config.")]:
        delattr(flag_values, name)
    flag_values.unparse_flags()
    before, sys.argv = sys.argv, argv  # Where --config looks for its fields.
    try:
        remaining = flag_values(argv)
    except flags.Error as error:
        raise UserError(str(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError, OSError, ImportError) as error:
        # What ml_collections raises for misspelt keys, values of the wrong type, and broken
        # configuration files.
        raise UserError(_describe(error, argv)) from error
    finally:
        sys.argv = before
    surplus, missing = remaining[1 + len(positional) :], positional[len(remaining) - 1 :]
    if surplus:
        raise UserError(f"unknown arguments {surplus}; flags start with --")
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given, without --")
    return remaining


def _describe(error: Exception, argv: Sequence[str]) -> str:
    """One line; the KeyError of a misspelt field comes alone or in an AttributeError."""
    cause = error.args[0] if error.args else error
    if isinstance(error, KeyError):
        cause = error
    if not isinstance(cause, KeyError):
        return f"in --config: {' '.join(str(cause).split())}"
    field, *hint = str(cause.args[0]).splitlines()
    field = field.strip("'\"")
    places = re.findall(rf"-(config[\w.]*)\.{re.escape(field)}\b", " ".join(argv))
    return ". ".join([f"unknown field {field!r} in {(places or ['--config'])[0]}", *hint])


def _with_config_file(argv: Sequence[str]) -> list[str]:
    """The arguments with the file of a configuration in place of its name."""
    found = list(argv)
    for index, argument in enumerate(argv):
        flag, separator, name = argument.partition("=")
        if flag in ("--config", "-config") and separator:
            prefix = f"{flag}="
        elif index and argv[index - 1] in ("--config", "-config"):
            prefix, name = "", argument
        else:
            continue
        name, colon, rest = name.partition(":")  # The rest is an argument of get_config.
        try:
            found[index] = f"{prefix}{config_file(name)}{colon}{rest}"
        except ValueError as error:
            raise UserError(f"--config={error}") from error
    return found


def describe(program: Callable[..., Any], flag_values: flags.FlagValues) -> str:
    """The docstring of the program's module, and the flags."""
    lines = [inspect.getdoc(inspect.getmodule(program)) or "", "\nFlags:"]
    for name in sorted(flag_values):
        flag = flag_values[name]
        default = "" if flag.default is None else f" (default: {flag.default_as_str})"
        lines.append(f"  --{'[no]' if flag.boolean else ''}{name}{default}")
        lines.append(flags.text_wrap(flag.help, length=100, indent="      "))
    return "\n".join(lines)
