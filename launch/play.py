"""Serves a page on this machine that plays what a model generates, while it generates it.

    python -m launch.play --pretrained=digits
    python -m launch.play --workdir=runs/digits

Open the address that it prints: choose a class, temperature and guidance, continue a recording.
Only this machine can open it. Ctrl-C ends it.
"""

from __future__ import annotations

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex

_FLAGS = flags.FlagValues()
command_line.define_run(_FLAGS)
_PORT = flags.DEFINE_integer(
    "port", 8000, "Of 127.0.0.1; 0 is any that is free.", flag_values=_FLAGS
)
_STEP = command_line.define_step(_FLAGS)
_WEIGHTS = command_line.define_weights(_FLAGS)


def main(argv):
    """Serves until it is interrupted."""
    del argv
    workdir = command_line.run_of(_FLAGS)
    ex.play(workdir, port=_PORT.value, step=_STEP.value, weights=_WEIGHTS.value)


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
