"""Signals end the work at a safe point, and a program with their status."""

import signal
import subprocess
import sys
import threading

import pytest

from poolformer_jax import interruption
from poolformer_jax.interruption import StopRequest
from tests.launch.processes import ROOT, finish

# What a program does when the signal comes, after it has printed "ready".
PROGRAM = """
import pathlib, sys, time
from absl import flags
from launch import command_line
from poolformer_jax import interruption

class Careless:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)

@interruption.keeps("nothing else")
@interruption.keeps("half of it")
def main(argv):
    if {work!r} == "anything":
        print("ready", flush=True)
        time.sleep(60)
    elif {work!r} == "a safe point":
        with interruption.StopRequest() as stop:
            print("ready", flush=True)
            while not stop.at_step(0):
                time.sleep(0.01)
        print("saved")
    elif {work!r} == "no safe point":
        with interruption.StopRequest():
            print("ready", flush=True)
            time.sleep(60)
    elif {work!r} == "where exceptions get lost":
        careless = Careless()
        del careless
        time.sleep(60)
    elif {work!r} == "an import":
        sys.path.insert(0, {folder!r})
        import slow
        print("imported")
        time.sleep(60)

command_line.run(main, flags.FlagValues())
"""
SLOW = "import time\nprint('ready', flush=True)\nfor _ in range(30): time.sleep(0.01)\n"


def interrupt(work, *numbers, folder="."):
    """The exit status, stdout and stderr of the program."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(work=work, folder=str(folder))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "ready\n", process.communicate()
    for number in numbers:
        process.send_signal(number)
    return finish(process)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_program_says_what_is_kept_and_how_to_go_on(number, status):
    code, out, err = interrupt("anything", number)
    assert (code, err) == (status, "")
    assert out.startswith(f"stopped by {number.name}: half of it\nto go on, run the same command ")


def test_work_with_safe_points_is_not_cut_short():
    assert interrupt("a safe point", signal.SIGINT) == (130, "saved\n", "")


def test_a_second_signal_ends_the_program_at_once():
    code, out, err = interrupt("no safe point", signal.SIGINT, signal.SIGTERM)
    assert (code, out) in ((143, ""), (130, ""))  # The system may deliver them in any order.
    assert err == f"ended at once by a second {'SIGTERM' if code == 143 else 'SIGINT'}\n"


@pytest.mark.parametrize("work", ["where exceptions get lost", "an import"])
def test_a_signal_is_not_lost(work, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    code, out, err = interrupt(work, signal.SIGTERM, folder=tmp_path)
    assert (code, err) == (143, "")
    assert "stopped by SIGTERM: half of it" in out


def test_in_a_notebook_the_second_signal_acts_as_usual():
    # A shell that started the tests in the background has the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopRequest() as stop:
            assert not stop.at_step(0)
            signal.raise_signal(signal.SIGINT)
            assert stop.at_step(1) and stop.together() and stop.agreed
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert interruption.received() is None  # That is a program's.


def test_elsewhere_than_in_the_main_thread_nothing_listens():
    answers = []

    def work():
        with StopRequest() as stop:
            answers.append(stop.at_step(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
