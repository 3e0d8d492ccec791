"""Runs a binary that gives up others which do not answer sooner than a user's does: train FLAGS."""

import runpy
import sys

from poolformer_jax.experiment import hosts

SOONER_SECONDS = hosts.HEARTBEAT_SECONDS - 10

if __name__ == "__main__":
    hosts.HEARTBEAT_SECONDS -= SOONER_SECONDS
    runpy.run_module(f"launch.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)
