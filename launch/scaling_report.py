"""Puts runs of several sizes beside each other: loss against parameters, samples, FLOPs, chips.

    python -m launch.scaling_report runs/digits_10k runs/digits_40k runs/digits_140k

Prints a table and the power laws through the points, with their intervals, and writes a page with
plots (extra `report`). Runs may still be going on. The numbers go to --json=FILE as well.
"""

from __future__ import annotations

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex

_FLAGS = flags.FlagValues()
_OUT = flags.DEFINE_string("out", "scaling.html", "The page.", flag_values=_FLAGS)
_JSON = flags.DEFINE_string("json", None, "File for the numbers.", flag_values=_FLAGS)
POSITIONAL = ("workdirs of runs...",)


def main(argv):
    """Reports; returns the study."""
    return ex.report_scaling(argv[1:], out=_OUT.value, json=_JSON.value)


if __name__ == "__main__":
    command_line.run(main, _FLAGS, positional=POSITIONAL)
