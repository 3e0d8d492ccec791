"""Pictures and pages of a run; they need Matplotlib, the extra `report`."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.pages import require_matplotlib


def plot_loss(workdir: str | os.PathLike[str]) -> Any:
    """Plots the loss over the steps of a run, as a Matplotlib figure.

    Raises:
      UserError: If the run or Matplotlib is missing.
    """
    with user_errors():
        require_matplotlib()
        from poolformer_jax.pages.plots import plot_loss
        from poolformer_jax.pages.run_files import load_run

        return plot_loss(load_run(workdir))


def write_report(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes the page of a run, `report.html` in its workdir.

    Raises:
      UserError: If the run or Matplotlib is missing.
    """
    with user_errors():
        require_matplotlib()
        from poolformer_jax.pages.report import write_report

        return write_report(workdir)
