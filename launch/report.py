"""Writes one self-contained HTML page about a run: loss curve, likelihood, clips to listen to.

  python -m launch.report --workdir=runs/quickstart

The page is `report.html` in the work directory. Needs the extra `report`.
"""

import sys

from absl import app, flags

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Work directory of a run made by launch.train.", required=True
)


def main(argv: list[str]) -> None:
    """Writes the page and prints its path."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    try:
        from poolformer_jax.evals import report
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        sys.exit("The report needs matplotlib: pip install -e '.[report]'")
    try:
        path = report.write_report(_WORKDIR.value)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"Error: {error}")
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser.")


if __name__ == "__main__":
    app.run(main)
