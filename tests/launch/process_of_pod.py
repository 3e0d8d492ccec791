"""A binary as one process of several.

    python -m tests.launch.process_of_pod PORT INDEX COUNT BINARY [FLAGS]

On a TPU pod --distributed finds the others by itself; here they are told.
"""

import importlib
import sys

import jax

from launch import command_line

if __name__ == "__main__":
    port, index, count = (int(argument) for argument in sys.argv[1:4])
    module = importlib.import_module(f"launch.{sys.argv[4]}")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=index)
    sys.argv = [sys.argv[0], *sys.argv[5:]]
    command_line.run(module.main, module._FLAGS)
