"""Writes one self-contained HTML page about a run: loss curve, likelihood, clips to listen to.

    python -m launch.report --workdir=runs/quickstart

The page is `report.html` in the workdir. Needs the extra `report`.
"""

from __future__ import annotations

from absl import flags

from launch import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)


def main(argv):
    """Writes the page and prints its path."""
    del argv
    with command_line.user_errors():
        try:
            from poolformer_jax.pages import report
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("matplotlib"):
                raise
            raise ImportError("the report needs matplotlib: pip install -e '.[report]'") from error
        path = report.write_report(_WORKDIR.value)
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser.")


if __name__ == "__main__":
    command_line.run(main)
