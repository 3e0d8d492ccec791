"""Starts binaries as a user does, and waits for them."""

import os
import pathlib
import socket
import subprocess
import sys

TINY_MODEL = [
    "--config.model.width=8",
    "--config.model.recurrent_width=16",
    "--config.model.num_gate_blocks=4",
    "--config.model.pool_factors=(4,)",
    "--config.model.layers=(0,1)",
    "--config.model.platform=cpu",
]


def start(module, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", f"launch.{module}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def start_pod(binary, count, *arguments, folders=None):
    """Starts a binary on `count` hosts, each in a current folder of its own if these are given."""
    root = pathlib.Path(__file__).parents[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    module = [sys.executable, "-m", "tests.launch.process_of_pod", str(port)]
    return [
        subprocess.Popen(
            [*module, str(index), str(count), binary, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folders[index] if folders else root,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        for index in range(count)
    ]


def finish(process):
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err
