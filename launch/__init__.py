"""Thin command-line programs, one per job: `python -m launch.<name> --helpshort`."""

import sys

from poolformer_jax import interruption

if sys.argv[:1] == ["-m"]:  # Python is about to import a program, which takes a while.
    interruption.listen()
