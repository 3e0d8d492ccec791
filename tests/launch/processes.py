"""Runs binaries: in this process, or in one of their own as a user does."""

import importlib
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from launch import command_line

ROOT = pathlib.Path(__file__).parents[2]

TINY_MODEL = [
    "--config.model.width=8",
    "--config.model.mixer.recurrent_width=16",
    "--config.model.mixer.num_gate_blocks=4",
    "--config.model.pool_factors=(4,)",
    "--config.model.layers=(0,1)",
    "--config.model.platform=cpu",
]


def call(binary, *arguments, **options):
    """Runs a binary in this process, on its eight devices; returns what its main returns."""
    module = importlib.import_module(f"launch.{binary}")
    return command_line.call(module.main, module._FLAGS, arguments, **options)


def mistake(binary, *arguments, **options):
    """The one line that a binary ends with."""
    with pytest.raises(SystemExit) as end:
        call(binary, *arguments, **options)
    assert isinstance(end.value.code, str) and end.value.code.startswith("error: "), end.value.code
    return end.value.code


def start(module, *arguments, **environment):
    """Starts a binary in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"launch.{module}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )


def start_pod(
    binary,
    count,
    *arguments,
    differing=None,
    folders=None,
    devices=1,
    impatient=False,
    variables=None,
):
    """Starts a binary on `count` hosts, with flags and current folders of their own if given."""
    program = ["tests.launch.impatient", binary] if impatient else [f"launch.{binary}"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
    # The last of two equal flags counts.
    xla_flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return [
        subprocess.Popen(
            [sys.executable, "-m", *program, *place, f"--process_id={index}", *arguments]
            + (differing[index] if differing else []),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folders[index] if folders else ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags} | (variables or {}),
        )
        for index in range(count)
    ]


def finish(process):
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err
