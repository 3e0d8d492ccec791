"""Writes one self-contained HTML page about a run: loss curve, likelihood, clips to listen to.

    python -m launch.report --workdir=runs/quickstart

The page is `report.html` in the workdir. Needs the extra `report`.
"""

from __future__ import annotations

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex

_FLAGS = flags.FlagValues()
_WORKDIR = command_line.define_workdir(_FLAGS)


def main(argv):
    """Writes the page and prints its path."""
    del argv
    path = ex.write_report(_WORKDIR.value)
    print(f"Wrote {path} ({len(path.read_bytes()) / 1e6:.1f} MB); open it in a browser.")


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
