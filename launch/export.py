"""Writes the averaged parameters of a run as a small folder to pass on, in half precision.

    python -m launch.export --workdir=runs/digits --out=digits_model

Every binary that reads a run reads such a folder: python -m launch.sample --workdir=digits_model
"""

from __future__ import annotations

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex

_FLAGS = flags.FlagValues()
_WORKDIR = command_line.define_workdir(_FLAGS)
_OUT = flags.DEFINE_string("out", None, "The folder.", required=True, flag_values=_FLAGS)
_STEP = command_line.define_step(_FLAGS)


def main(argv):
    """Writes; returns the folder."""
    del argv
    return ex.export(_WORKDIR.value, _OUT.value, step=_STEP.value)


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
