"""A binary as one process of several: ... process_of_pod BINARY PORT INDEX COUNT FLAGS.

On a TPU pod --distributed finds the others by itself; here they are told.
"""

import importlib
import sys

import jax

from launch import command_line

if __name__ == "__main__":
    binary = importlib.import_module(f"launch.{sys.argv[1]}")
    port, index, count = (int(argument) for argument in sys.argv[2:5])
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=index)
    sys.argv = [sys.argv[0], *sys.argv[5:]]
    command_line.run(binary.main)
