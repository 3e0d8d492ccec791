"""Command lines of the binaries: shared flags, and mistakes that end in one clear line.

A binary has flags of its own, `_FLAGS = flags.FlagValues()`, a `main` that turns them into options
of one call, and ends with `command_line.run(main, _FLAGS)`. Nothing is global, so that `call` runs
it in any process, as often as wanted.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from poolformer_jax.experiment import UserError, config_file, user_errors

Main = Callable[[Sequence[str]], Any]

_HELP = {"--help", "-help", "--helpshort", "-helpshort", "--helpfull", "-helpfull", "-h", "-?"}


def run(main: Main, flag_values: flags.FlagValues, *, positional: Sequence[str] = ()) -> None:
    """Runs a binary as the program, with the arguments of the command line; see `call`."""
    # Through absl come dozens of lines for each checkpoint, and a warning if it has no metric.
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        call(main, flag_values, sys.argv[1:], positional=positional)
    except KeyboardInterrupt:
        sys.exit("interrupted")


def call(
    main: Main,
    flag_values: flags.FlagValues,
    arguments: Sequence[str],
    *,
    positional: Sequence[str] = (),
) -> Any:
    """Parses the flags and runs main(argv); the project's own messages go to stdout.

    Args:
      main: Gets the name of the program, followed by the arguments that are no flags.
      flag_values: The binary's own.
      arguments: Of the command line.
      positional: What to call those that are no flags; there have to be as many.

    Returns:
      What main returns.

    Raises:
      SystemExit: With a message if the user made a mistake, or was helped.
    """
    if not _HELP.isdisjoint(arguments):
        print(_help(main, flag_values))
        sys.exit(0)
    with _messages_to_stdout():
        try:
            with user_errors():
                argv = _parse(flag_values, [sys.argv[0], *arguments], positional)
            return main(argv)
        except UserError as error:
            sys.exit(f"error: {error}")


def define_config(
    flag_values: flags.FlagValues,
    text: str = "Configuration: a file, or the name of one in configs/.",
    *,
    required: bool = True,
) -> flags.FlagHolder:
    """--config, with flags for all of its fields."""
    holder = config_flags.DEFINE_config_file("config", None, text, flag_values=flag_values)
    if required:
        flags.mark_flag_as_required("config", flag_values=flag_values)
    return holder


def define_workdir(
    flag_values: flags.FlagValues, text: str = "Folder of the run.", *, required: bool = True
) -> flags.FlagHolder:
    """--workdir."""
    return flags.DEFINE_string("workdir", None, text, required=required, flag_values=flag_values)


def define_data_dir(
    flag_values: flags.FlagValues, text: str = "Folder of data sets; overrides the config's."
) -> flags.FlagHolder:
    """--data_dir."""
    return flags.DEFINE_string("data_dir", None, text, flag_values=flag_values)


def define_distributed(flag_values: flags.FlagValues) -> flags.FlagHolder:
    """--distributed."""
    text = "Connect the processes of a pod by jax.distributed.initialize()."
    return flags.DEFINE_bool("distributed", False, text, flag_values=flag_values)


def define_step(flag_values: flags.FlagValues) -> flags.FlagHolder:
    """--step."""
    text = "Checkpoint: best (by validation bits), latest, or the number of its step."
    return flags.DEFINE_string("step", "best", text, flag_values=flag_values)


def define_weights(flag_values: flags.FlagValues) -> flags.FlagHolder:
    """--weights."""
    text = "Averaged, or as trained."
    return flags.DEFINE_enum("weights", "ema", ["ema", "raw"], text, flag_values=flag_values)


def define_seed(flag_values: flags.FlagValues, text: str = "Of the draw.") -> flags.FlagHolder:
    """--seed."""
    return flags.DEFINE_integer(
        "seed", 0, text, lower_bound=0, upper_bound=2**31 - 1, flag_values=flag_values
    )


def define_batch_size(
    flag_values: flags.FlagValues, text: str, default: int | None = None
) -> flags.FlagHolder:
    """--batch_size."""
    return flags.DEFINE_integer("batch_size", default, text, lower_bound=1, flag_values=flag_values)


def values_of(config: flags.FlagHolder, data_dir: flags.FlagHolder) -> Mapping[str, Any]:
    """The configuration of --config, with the folder of --data_dir."""
    values = config.value.to_dict()
    if data_dir.value:
        values["data"]["data_dir"] = data_dir.value
    return values


def parse_duration(name: str, text: str, sample_rate: int) -> int:
    """Reads a duration such as 1.5s or 500ms, or a number of samples; returns samples.

    Args:
      name: Of the flag, for the error.
      text: What the user wrote.
      sample_rate: In Hz.

    Raises:
      ValueError: If it is none, or less than one sample.
    """
    match = re.fullmatch(r"(\d+|\d*\.\d+)(s|ms|)", text.strip())
    if match is not None:
        number, unit = match.groups()
        scale = {"s": sample_rate, "ms": sample_rate / 1000, "": 1}[unit]
        samples = float(number) * scale
        if samples >= 1 and (unit or samples.is_integer()):
            return round(samples)
    raise ValueError(
        f"--{name}={text} is no duration; write seconds as 1.5s, milliseconds as 500ms, or a "
        f"number of samples ({sample_rate} a second)"
    )


def _parse(
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
        # configuration files; the text of a KeyError comes quoted.
        message = " ".join(str(error.args[0] if error.args else error).replace("\\n", " ").split())
        raise UserError(f"in --config: {message}") from error
    finally:
        sys.argv = before
    surplus, missing = remaining[1 + len(positional) :], positional[len(remaining) - 1 :]
    if surplus:
        raise UserError(f"unknown arguments {surplus}; flags start with --")
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given, without --")
    return remaining


def _with_config_file(argv: Sequence[str]) -> list[str]:
    """The arguments with the file of a configuration in place of its name."""
    found = list(argv)
    for index, argument in enumerate(argv):
        flag, separator, name = argument.partition("=")
        if flag in ("--config", "-config") and separator:
            prefix = f"{flag}="
        elif argv[index - 1] in ("--config", "-config"):
            prefix, name = "", argument
        else:
            continue
        name, colon, rest = name.partition(":")  # The rest is an argument of get_config.
        try:
            found[index] = f"{prefix}{config_file(name)}{colon}{rest}"
        except ValueError as error:
            raise UserError(f"--config={error}") from error
    return found


def _help(main: Main, flag_values: flags.FlagValues) -> str:
    """The module's docstring and the flags."""
    lines = [inspect.getdoc(inspect.getmodule(main)) or "", "\nFlags:"]
    for name in sorted(flag_values):
        flag = flag_values[name]
        choices = f" <{'|'.join(flag.parser.enum_values)}>" if flag.flag_type() == "enum" else ""
        default = "" if flag.default is None else f" (default: {flag.default_as_str})"
        lines.append(f"  --{'[no]' if flag.boolean else ''}{name}{choices}{default}")
        lines.append(flags.text_wrap(flag.help, length=100, indent="      "))
    return "\n".join(lines)


@contextlib.contextmanager
def _messages_to_stdout() -> Iterator[None]:
    """The messages of the project, as they are; warnings and errors say what they are."""

    class Format(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
            return level + super().format(record)

    handler, project = logging.StreamHandler(sys.stdout), logging.getLogger("poolformer_jax")
    handler.setFormatter(Format())
    before = project.level, project.propagate
    project.addHandler(handler)
    project.setLevel(logging.INFO)
    project.propagate = False
    try:
        yield
    finally:
        project.removeHandler(handler)
        project.setLevel(before[0])
        project.propagate = before[1]
