"""Command lines of the binaries: mistakes of the user end in one clear line, not a traceback."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags
from absl import logging as absl_logging


def run(main: Callable[[Sequence[str]], None], *, positional: Sequence[str] = ()) -> None:
    """Parses the flags and runs main(argv); the project's own messages go to stdout.

    Args:
      main: Gets the name of the program, followed by the arguments that are no flags.
      positional: What to call these; there have to be as many.
    """
    # Through absl come dozens of lines for each checkpoint, and a warning if it has no metric.
    absl_logging.set_verbosity(absl_logging.ERROR)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Format())
    project = logging.getLogger("poolformer_jax")
    project.addHandler(handler)
    project.setLevel(logging.INFO)
    project.propagate = False
    try:
        app.run(main, flags_parser=functools.partial(_parse, positional))
    except KeyboardInterrupt:
        sys.exit("interrupted")


class _Format(logging.Formatter):
    """The message alone; warnings and errors say what they are."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return level + super().format(record)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program with the message of an error that names the user's mistake.

    For the checks before anything expensive starts, whose errors are written for the user; later
    errors keep their traceback.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")


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


def _parse(positional: Sequence[str], argv: Sequence[str]) -> Sequence[str]:
    _check_config_file(argv)
    try:
        remaining = flags.FLAGS(list(argv))
    except flags.Error as error:
        sys.exit(f"error: {error}")
    except (AttributeError, KeyError, TypeError, ValueError, OSError, ImportError) as error:
        # What ml_collections raises for misspelt keys, values of the wrong type, and broken
        # configuration files; the text of a KeyError comes quoted.
        message = " ".join(str(error.args[0] if error.args else error).split())
        sys.exit(f"error: in --config: {message}")
    surplus, missing = remaining[1 + len(positional) :], positional[len(remaining) - 1 :]
    if surplus:
        sys.exit(f"error: unknown arguments {surplus}; flags start with --")
    if missing:
        sys.exit(f"error: {' and '.join(missing)} must be given, without --")
    return remaining


def _check_config_file(argv: Sequence[str]) -> None:
    for before, argument in itertools.pairwise(argv):
        name, separator, value = argument.partition("=")
        if name in ("--config", "-config") and separator:
            path = value
        elif before in ("--config", "-config"):
            path = argument
        else:
            continue
        path = path.partition(":")[0]  # The rest is an argument to get_config.
        if not pathlib.Path(path).is_file():
            known = ", ".join(sorted(str(p) for p in pathlib.Path("configs").glob("[!_]*.py")))
            sys.exit(
                f"error: --config={path} is not a file; known here: {known or 'none, run this '}"
                f"{'' if known else 'in the folder that holds configs/'}"
            )
