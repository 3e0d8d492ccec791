"""From a command line to the flags of a binary, as often as wanted in one process."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_dict

from poolformer_jax.experiment import UserError, named_config


class ConfigParser(flags.ArgumentParser):
    """Of --config: a file or a name, and for files with parameters a colon and the argument."""

    def parse(self, argument: str) -> config_dict.ConfigDict:
        """The configuration, whose fields are fixed."""
        try:
            return named_config(argument).lock()
        except UserError as error:
            raise UserError(f"--config={error}") from error

    def flag_type(self) -> str:
        """For the help."""
        return "config object"


def parse(
    flag_values: flags.FlagValues, argv: list[str], positional: Sequence[str]
) -> Sequence[str]:
    """Parses afresh, whatever was parsed before.

    Args:
      flag_values: Of the binary.
      argv: The name of the program and its arguments.
      positional: What to call those that are no flags; "..." behind the last lets it be several.

    Returns:
      The name of the program and the positional arguments.

    Raises:
      UserError: If there is a mistake.
    """
    for name in [name for name in flag_values if name.startswith("config.")]:
        delattr(flag_values, name)
    flag_values.unparse_flags()
    before, sys.argv = sys.argv, argv  # Where --config looks for its fields.
    try:
        remaining = flag_values(argv)
    except flags.Error as error:
        raise UserError(str(error)) from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # What ml_collections raises for misspelt keys and values of the wrong type.
        raise UserError(_describe(error, argv)) from error
    finally:
        sys.argv = before
    surplus, missing = remaining[1 + len(positional) :], positional[len(remaining) - 1 :]
    if surplus and not "".join(positional).endswith("..."):
        raise UserError(f"unknown arguments {surplus}; flags start with --")
    if missing:
        names = " and ".join(missing).removesuffix("...")
        raise UserError(f"{names} must be given, without --")
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


def describe(program: Callable[..., Any], flag_values: flags.FlagValues) -> str:
    """The docstring of the program's module, and the flags."""
    lines = [inspect.getdoc(inspect.getmodule(program)) or "", "\nFlags:"]
    for name in sorted(flag_values):
        flag = flag_values[name]
        default = "" if flag.default is None else f" (default: {flag.default_as_str})"
        lines.append(f"  --{'[no]' if flag.boolean else ''}{name}{default}")
        lines.append(flags.text_wrap(flag.help, length=100, indent="      "))
    return "\n".join(lines)
