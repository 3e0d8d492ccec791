"""What all binaries share: flags, help, one line for a mistake, durations."""

import pathlib
import re
import signal
import subprocess
import sys

import pytest
from absl import flags

from launch import command_line
from launch.command_line import call as call_main
from launch.command_line import parse_duration
from tests.launch.processes import ROOT, call, finish, mistake, start

SHARED = {"__init__", "command_line", "last_words", "parsing"}
BINARIES = sorted({path.stem for path in (ROOT / "launch").glob("*.py")} - SHARED)
TRAIN = ("train", "--config=digits", "--workdir=unused")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/nope.py"], "configs/nope.py is neither a file nor .* abl.*, beethoven"),
        (["--config=nope"], "--config=nope is neither a file nor one of the names .*digits, "),
        (["--config.train.nope=1"], "^error: unknown field 'nope' in config.train$"),
        (["--config.nope=1"], "^error: unknown field 'nope' in config$"),
        (["--config.modle.width=1"], "^error: unknown field 'modle' in config. Did you mean \"mod"),
        (["--config.train.batchsize=8"], "unknown field 'batchsize' in config.train. Did"),
        (["--config.train.batchsize=8"], 'Did you mean "batch_size" instead of "batchsize"'),
        (["--config.train.batch_size=abc"], "--config.train.batch_size=abc: invalid literal"),
        (["--wrokdir=x"], "wrokdir"),
        (["oops"], r"unknown arguments \['oops'\]"),
        (["--workdir="], "^error: --workdir '' must be a path; the current folder is called '.'"),
        (["--data_dir="], "data_dir must be a path or None"),
        (["--config.model.layers[0]=2"], "0 is not a valid index"),
        (
            ["--config.model.mixer.kind=lru", "--config.model.mixer.num_gate_blocks=32"],
            "--config.model.mixer.num_gate_blocks has no effect: the chosen kind has no such field",
        ),
    ],
)
def test_mistakes_on_the_command_line(flags, message):
    found = mistake(*TRAIN, *flags)
    assert re.search(message, found) and len(found.splitlines()) == 1


def test_a_value_that_cannot_work_is_told_with_its_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from poolformer_jax.experiment import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.train.batch_size = -1\n"
        "    return config\n"
    )
    message = f"error: --config={path}: config.train: batch_size -1 must be at least 1"
    assert mistake("train", f"--config={path}", f"--workdir={tmp_path}") == message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--coordinator=a:99",
            "--num_processes is missing: coordinator, num_processes and process_id",
        ),
        ("--coordinator=a:99 --num_processes=2", "--process_id is missing"),
        ("--process_id=0", "--coordinator is missing"),
        ("--coordinator=a --num_processes=2 --process_id=0", "--coordinator a must be HOST:PORT"),
        (
            "--coordinator=a:0 --num_processes=2 --process_id=0",
            "a:0 must .* a port of 1 to 65535",
        ),
        ("--coordinator=:99 --num_processes=2 --process_id=0", ":99 must be HOST:PORT"),
        ("--coordinator=a:65536 --num_processes=2 --process_id=0", "a:65536 must be HOST:PORT"),
        (
            "--coordinator=a:99 --num_processes=0 --process_id=0",
            "num_processes 0 must be at least",
        ),
        ("--coordinator=a:99 --num_processes=2 --process_id=2", "--process_id 2 must be in 0 to 1"),
        (
            "--coordinator=a:99 --num_processes=2 --process_id=-1",
            "process_id -1 must be in 0 to 1",
        ),
        (
            "--nodistributed --coordinator=a:99 --num_processes=2 --process_id=0",
            "--nodistributed does not fit --coordinator",
        ),
    ],
)
def test_mistakes_in_where_the_processes_are(flags, message):
    found = mistake(*TRAIN, *flags.split())
    assert re.search(message, found) and len(found.splitlines()) == 1


def test_missing_flags():
    assert "--config" in mistake("train", "--workdir=x")
    assert "--workdir" in mistake("train", "--config=digits")


def test_mistakes_load_no_jax():
    """Which takes seconds; without it they end in one."""
    program = """
        import sys
        from launch import command_line, compile_tpu, eval_likelihood, eval_samples
        from launch import export, import_classifier, play, prepare_data, report, sample
        from launch import scaling_report, train, train_classifier

        every = (compile_tpu, eval_likelihood, eval_samples, import_classifier, play, prepare_data)
        every += (export, report, sample, scaling_report, train, train_classifier)
        for binary, *arguments in (
            *((binary, "--wrokdir=x") for binary in every),
            (train, "--config=nope", "--workdir=x"),
            (train, "--config=scaling:5m", "--workdir=x"),
            (train, "--config=sc09", "--workdir=x", "--config.model.widht=8"),
            (train, "--config=sc09", "--workdir=x", "--config.model.width=7"),
            (train, "--config=sc09", "--workdir=/proc/none"),
            (train, "--help"),
            (train, "--config=sc09", "--workdir=x", "--coordinator=host"),
            (eval_likelihood, "--workdir=/nowhere"),
            (eval_likelihood, "--workdir=/nowhere", "--length=soon"),
            (prepare_data, "--dataset=sc10"),
            (sample, "--length=1s"),
            (sample, "--pretrained=nobody"),
            (sample, "--workdir=/nowhere"),
            (sample, "--workdir=/nowhere", "--temperature=-1"),
            (eval_samples, "--workdir=/nowhere"),
            (eval_samples, "--samples=/nowhere", "--classifier=x"),
            (compile_tpu, "--config=digits", "--topology=v9:2x2"),
        ):
            try:
                command_line.call(binary.main, binary._FLAGS, arguments)
            except SystemExit as end:
                print(end.code)
            assert "jax" not in sys.modules, arguments
    """
    lines = program.splitlines()
    program = "\n".join(line.removeprefix(" " * 8) for line in lines)
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("error: ") == 16 + len(BINARIES)


def test_flags_are_parsed_afresh(tmp_path):
    """A field that one call set is not set in the next."""
    message = mistake(*TRAIN, "--config.model.width=33", f"--workdir={tmp_path}")
    assert "width 33" in message
    message = mistake(*TRAIN, "--config.train.batch_size=0", f"--workdir={tmp_path}")
    assert "batch_size 0" in message and "33" not in message


def test_configuration_by_name_or_file_and_in_two_words(tmp_path):
    for config in (
        ["--config=digits"],
        ["--config", "digits"],
        ["-config=ablations/digits_lru"],
        [f"--config={ROOT / 'configs' / 'sc09.py'}"],
        ["--config=digits", "--config.model.mixer.kind=lru"],
        ["--config=configs/scaling.py:1m", "--config.train.num_steps=7"],
    ):
        arguments = ["--workdir=/proc/none", *config]
        assert "cannot write to --workdir=/proc/none" in mistake("train", *arguments)


@pytest.mark.parametrize("binary", ["train", "eval_likelihood"])
@pytest.mark.parametrize("size", ["", ":", ":5m"])
def test_a_missing_or_unknown_size_is_answered_with_the_sizes(binary, size):
    found = mistake(binary, f"--config=configs/scaling.py{size}", "--workdir=/proc/none")
    assert f"{size.strip(':')!r} is no size" in found and len(found.splitlines()) == 1
    assert "such as scaling.py:100m: 1m, 3m, 7m, 20m, 40m, 100m, 200m, 400m, digits_10k" in found


def test_help_shows_what_a_binary_does_and_its_flags():
    code, out, err = finish(start("train", "--help"))
    assert code == 0 and not err
    assert out.startswith("Trains a sequence model") and "python -m launch.train" in out
    for flag in ("--config\n", "--workdir\n", "--data_dir\n", "--[no]distributed"):
        assert flag in out


@pytest.mark.parametrize("binary", BINARIES)
def test_every_binary_is_short_and_helps(binary, capsys):
    with pytest.raises(SystemExit) as end:
        call(binary, "--helpshort")
    assert end.value.code == 0
    assert f"python -m launch.{binary}" in capsys.readouterr().out
    source = pathlib.Path(ROOT / "launch" / f"{binary}.py").read_text()
    assert len(source.splitlines()) < 100


def test_positional_arguments():
    own = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Folder.", flag_values=own)

    def run(*arguments):
        return call_main(lambda argv: argv[1:], own, arguments, positional=["the file"])

    assert run("a.pth", "--workdir=b") == ["a.pth"] and own.workdir == "b"
    with pytest.raises(SystemExit, match="error: the file must be given, without --"):
        run("--workdir=b")
    with pytest.raises(SystemExit, match=r"unknown arguments \['b'\]"):
        run("a", "b")

    def run_several(*arguments):
        return call_main(lambda argv: argv[1:], own, arguments, positional=["a file", "more..."])

    assert run_several("a", "b") == ["a", "b"] and run_several("a", "b", "c") == ["a", "b", "c"]
    with pytest.raises(SystemExit, match="error: a file and more must be given, without --"):
        run_several()
    with pytest.raises(SystemExit, match="error: more must be given, without --"):
        run_several("a")


@pytest.mark.parametrize(
    ("text", "samples"),
    [("1s", 16_000), ("0.5s", 8_000), (".25s", 4_000), ("500ms", 8_000), ("7", 7)],
)
def test_durations(text, samples):
    assert parse_duration("length", text, 16_000) == samples


@pytest.mark.parametrize("text", ["86401s", "9" * 400 + "s", "99999999999999ms"])
def test_more_than_a_day(text):
    with pytest.raises(ValueError, match=r"--length=9*8?6?4?0?1?m?s? is more than a day of audio"):
        parse_duration("length", text, 16_000)


@pytest.mark.parametrize("text", ["", "s", "1m", "-1s", "0", "0s", "1.5", "1,5s", "0.00001s"])
def test_no_durations(text):
    with pytest.raises(ValueError, match=re.escape(f"--length={text} is no duration")):
        parse_duration("length", text, 16_000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_stopped_at_a_safe_point_ends_in_two_lines(monkeypatch, capsys, number):
    def main(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "_quieten_threads", lambda: None)
    monkeypatch.setattr(command_line.interruption, "listen", lambda: None)
    monkeypatch.setattr(command_line.interruption, "received", lambda: number)
    monkeypatch.setattr(command_line.os, "_exit", sys.exit)
    monkeypatch.setattr(sys, "argv", ["program"])
    with pytest.raises(SystemExit) as ended:
        command_line.run(main, flags.FlagValues())
    assert ended.value.code == 128 + number
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"stopped by {number.name}: ")
    assert lines[1].startswith("to go on, run the same command again: ")
