"""Command lines of the binaries: shared flags, and mistakes that end in one clear line.

A binary has flags of its own, `_FLAGS = flags.FlagValues()`, a `main` that turns them into options
of one call, and ends with `command_line.run(main, _FLAGS)`. Nothing is global, so that `call` runs
it in any process, as often as wanted.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from launch import last_words, parsing
from poolformer_jax import interruption
from poolformer_jax.data.datasets import MAX_LENGTH, SAMPLE_RATE
from poolformer_jax.data.errors import UnreadableClipError
from poolformer_jax.disk_full import is_disk_full, with_advice
from poolformer_jax.experiment import (
    Distributed,
    UserError,
    make_experiment,
    replace,
    unpack_pretrained,
    user_errors,
)
from poolformer_jax.experiment.configuration import T, flat_values
from poolformer_jax.lock import LockedError
from poolformer_jax.training.errors import TrainingError

if TYPE_CHECKING:
    from poolformer_jax.training.trainer import Outcome

Main = Callable[[Sequence[str]], Any]

_HELP = {"--help", "-help", "--helpshort", "-helpshort", "--helpfull", "-helpfull", "-h", "-?"}


def run(main: Main, flag_values: flags.FlagValues, *, positional: Sequence[str] = ()) -> None:
    """Runs a binary as the program, with the arguments of the command line; see `call`.

    The exit status is 0 only if all was done: 130 after SIGINT and 143 after SIGTERM, 1 after an
    error.
    """
    interruption.listen()
    _quieten_threads()

    @functools.wraps(main)
    def program(argv: Sequence[str]) -> Any:
        if "distributed" in flag_values and (how := distributed_of(flag_values)):
            # Those that read a checkpoint have a flag that says which.
            saves = "step" not in flag_values
            checkpoints = (
                f"{os.path.expanduser(flag_values.workdir)}/checkpoints" if saves else None
            )
            last_words.explain_aborts(how, checkpoints=checkpoints)
        return main(argv)

    with last_words.leaving_together():
        try:
            call(program, flag_values, sys.argv[1:], positional=positional)
        except BaseException as error:
            number = interruption.received()
            left = number is not None and isinstance(error, KeyboardInterrupt)
            if not (left or interruption.was_raised()):
                raise
            number = number or signal.SIGTERM
            kept = getattr(error, "__notes__", ["what was complete is kept"])[0]
            command = shlex.join(sys.orig_argv)
            _print(
                f"stopped by {number.name}: {kept}\nto go on, run the same command again: {command}"
            )
            if not last_words.are_several():
                os._exit(128 + number)  # What JAX is still computing does not survive the exit.
        if number := interruption.received():
            sys.exit(128 + number)


def _quieten_threads() -> None:
    """Keeps Orbax's threads from telling of each checkpoint and of errors, which are raised too."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    hook = sys.unraisablehook

    def drop_reports(unraisable: Any) -> None:
        # Hundreds, each of an array that is not read or written once another could not be.
        report = str(unraisable.exc_value)
        if not re.match("Event loop is closed|Encountered error while read", report):
            hook(unraisable)

    sys.unraisablehook = drop_reports


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
      positional: What to call those that are no flags; there have to be as many, or more if the
        last ends with "...".

    Returns:
      What main returns.

    Raises:
      SystemExit: With a message if the user made a mistake, a run diverged or numbers are not
        finite; or after help.
    """
    if not _HELP.isdisjoint(arguments):
        print(parsing.describe(main, flag_values))
        sys.exit(0)
    with _messages_to_stdout():
        try:
            with user_errors():
                argv = parsing.parse(flag_values, [sys.argv[0], *arguments], positional)
            return main(argv)
        except UserError as error:
            # The library speaks of parameters, which are flags here.
            names = "|".join(flag_values)
            message = re.sub(rf"^({names})(?= is missing| \S+ (must|does) )", r"--\1", str(error))
            sys.exit(f"error: {message}")
        except Exception as error:
            kinds = (FloatingPointError, TrainingError, LockedError, UnreadableClipError)
            told = isinstance(error, kinds)
            if not told and not is_disk_full(error):
                raise
            sys.exit(f"error: {error if told else with_advice(error)}")


def define_config(
    flag_values: flags.FlagValues,
    text: str = "Configuration: a file, or the name of one in configs/.",
    *,
    required: bool = True,
) -> flags.FlagHolder:
    """--config, with flags for all of its fields."""
    holder = config_flags.DEFINE_config_file("config", None, text, flag_values=flag_values)
    # Its own would end in a stack trace for what the user wrote in the file.
    flag_values["config"].parser = parsing.ConfigParser()
    if required:
        flags.mark_flag_as_required("config", flag_values=flag_values)
    return holder


def define_workdir(
    flag_values: flags.FlagValues, text: str = "Folder of the run.", *, required: bool = True
) -> flags.FlagHolder:
    """--workdir."""
    return flags.DEFINE_string("workdir", None, text, required=required, flag_values=flag_values)


def define_run(flag_values: flags.FlagValues, text: str = "Folder of the run.") -> None:
    """--workdir and --pretrained: a trained model; see `run_of`."""
    define_workdir(flag_values, text, required=False)
    text = "In place of a run, a model that comes with the package: digits."
    flags.DEFINE_string("pretrained", None, text, flag_values=flag_values)


def run_of(flag_values: flags.FlagValues) -> str | os.PathLike[str]:
    """The folder of the trained model that the flags of `define_run` name.

    One that comes with the package is copied to --workdir, runs/<name>_pretrained if not given.

    Raises:
      UserError: If none is named.
    """
    workdir, name = flag_values.workdir, flag_values.pretrained
    if name is not None:
        return unpack_pretrained(name, workdir or f"runs/{name}_pretrained")
    if workdir is None:
        raise UserError("--workdir is missing: the folder of a run; or try --pretrained=digits")
    return workdir


def define_data_dir(
    flag_values: flags.FlagValues, text: str = "Folder of data sets; overrides the config's."
) -> flags.FlagHolder:
    """--data_dir."""
    return flags.DEFINE_string("data_dir", None, text, flag_values=flag_values)


def define_distributed(flag_values: flags.FlagValues) -> None:
    """--distributed, and where the processes find each other; see `distributed_of`."""
    text = "Run as one of several processes that do the same: on a TPU pod, Slurm or Kubernetes."
    flags.DEFINE_bool("distributed", False, text, flag_values=flag_values)
    text = "HOST:PORT of process 0. Elsewhere every process is given these three."
    flags.DEFINE_string("coordinator", None, text, flag_values=flag_values)
    for name, text in (("num_processes", "Processes."), ("process_id", "Of this one, from 0.")):
        flags.DEFINE_integer(name, None, text, flag_values=flag_values)


def distributed_of(flag_values: flags.FlagValues) -> Distributed | bool:
    """What the flags of `define_distributed` say; a coordinator implies --distributed.

    Raises:
      UserError: If they do not fit together.
    """
    names = ("coordinator", "num_processes", "process_id")
    given = {name: flag_values[name].value for name in names}
    if all(value is None for value in given.values()):
        return flag_values.distributed
    with user_errors():
        if flag_values["distributed"].present and not flag_values.distributed:
            raise ValueError("--nodistributed does not fit --coordinator; leave one of them out")
        return Distributed(**given)


def define_restart(flag_values: flags.FlagValues) -> flags.FlagHolder:
    """--restart."""
    text = "Start again from step 0; what the workdir holds of a run is moved to before_restart."
    return flags.DEFINE_bool("restart", False, text, flag_values=flag_values)


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


def configured(flag_values: flags.FlagValues, kind: type[T]) -> T:
    """The experiment of --config and its flags, with the folder of --data_dir if there is that.

    Raises:
      ValueError: As `make_experiment`, or if a flag sets a field that the chosen kind has not.
    """
    overridden = config_flags.get_override_values(flag_values["config"])
    try:
        experiment = make_experiment(flag_values.config, kind)
    except ValueError as error:
        if overridden:
            raise
        path = config_flags.get_config_filename(flag_values["config"])
        raise ValueError(f"--config={path}: {error}") from error
    fields = flat_values(experiment)
    for field in overridden:
        if "[" not in field and not any(
            known == field or known.startswith(f"{field}.") for known in fields
        ):
            raise ValueError(f"--config.{field} has no effect: the chosen kind has no such field")
    if "data_dir" in flag_values and flag_values.data_dir is not None:
        experiment = replace(experiment, data={"data_dir": flag_values.data_dir})
    return experiment


def say_how_to_resume(outcome: Outcome, *, is_program: bool) -> None:
    """Says at which step a training was stopped, and if it is the program, the command again."""
    if not outcome.finished:
        # Once more from step 0 is not meant.
        again = [word for word in sys.orig_argv if not re.match(r"--?restart\b", word)]
        command = f": {shlex.join(again)}" if is_program else ""
        _print(
            f"stopped at step {outcome.step}, checkpoint saved; to resume, run the same command "
            f"again{command}"
        )


def _print(text: str) -> None:
    """Prints even if what read stdout, such as `tee`, was stopped by the same Ctrl-C."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        print(text, file=sys.stderr)
        # The interpreter writes what is left at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def duration_of(flag: flags.FlagHolder) -> int | None:
    """The duration that a flag gives, in samples; None without it. Errors as `parse_duration`."""
    return None if flag.value is None else parse_duration(flag.name, flag.value, SAMPLE_RATE)


def parse_duration(name: str, text: str, sample_rate: int) -> int:
    """Reads a duration such as 1.5s or 500ms, or a number of samples; returns samples.

    Args:
      name: Of the flag, for the error.
      text: What the user wrote.
      sample_rate: In Hz.

    Raises:
      ValueError: If it is none, less than one sample, or more than a day.
    """
    match = re.fullmatch(r"(\d+|\d*\.\d+)(s|ms|)", text.strip())
    if match is not None:
        number, unit = match.groups()
        scale = {"s": sample_rate, "ms": sample_rate / 1000, "": 1}[unit]
        samples = float(number) * scale
        if samples > MAX_LENGTH:
            raise ValueError(f"--{name}={text:.40} is more than a day of audio")
        if samples >= 1 and (unit or samples.is_integer()):
            return round(samples)
    raise ValueError(
        f"--{name}={text} is no duration; write seconds as 1.5s, milliseconds as 500ms, or a "
        f"number of samples ({sample_rate} a second)"
    )


def steps_of(flag: flags.FlagHolder) -> tuple[int, int] | None:
    """The first and the last step that a flag such as --profile_steps=10:15 gives, if it does.

    Raises:
      ValueError: If it gives anything else.
    """
    if flag.value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", flag.value)
    if match is None:
        raise ValueError(
            f"--{flag.name}={flag.value:.40} must be the first and the last step, such as 10:15"
        )
    return int(match[1]), int(match[2])


@contextlib.contextmanager
def _messages_to_stdout() -> Iterator[None]:
    """The messages of the project, as they are; warnings and errors say what they are."""

    class Format(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
            return level + super().format(record)

    class Handler(logging.StreamHandler):
        def handleError(self, record: logging.LogRecord) -> None:
            if not isinstance(sys.exc_info()[1], BrokenPipeError):  # See `_print`.
                super().handleError(record)

    handler, project = Handler(sys.stdout), logging.getLogger("poolformer_jax")
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
