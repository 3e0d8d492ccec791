"""Pictures and pages of a run; they need Matplotlib, the extra `report`."""

from __future__ import annotations

import logging
import os
from typing import Any

from poolformer_jax import interruption
from poolformer_jax.buckets import AnyPath
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.paths import workdir_path
from poolformer_jax.experiment.workdir import CONFIG_FILE, read_experiment, read_values
from poolformer_jax.pages import require_matplotlib

_LOG = logging.getLogger(__name__)


def plot_loss(workdir: str | os.PathLike[str]) -> Any:
    """Plots the loss over the steps of a run, as a Matplotlib figure.

    Raises:
      UserError: If the run or Matplotlib is missing.
    """
    with user_errors():
        require_matplotlib()
        from poolformer_jax.pages.plots import plot_loss
        from poolformer_jax.pages.run_files import load_run

        return plot_loss(load_run(_checked(workdir)))


@interruption.keeps("no page was written, an earlier one is as it was")
def write_report(workdir: str | os.PathLike[str]) -> AnyPath:
    """Writes the page of a run, `report.html` in its workdir.

    Raises:
      UserError: If the run or Matplotlib is missing.
    """
    with user_errors():
        require_matplotlib()
        from poolformer_jax.pages.report import write_report

        return write_report(_checked(workdir))


def _checked(workdir: str | os.PathLike[str]) -> AnyPath:
    """The workdir; a page does not check the values that it shows."""
    workdir = workdir_path(workdir)
    path = workdir / CONFIG_FILE
    if path.is_file() and "augment" not in read_values(path):  # A classifier's has no page.
        read_experiment(workdir)
    return workdir


def offer_sample_page(folder: AnyPath, rows: Any, settings: Any) -> None:
    """Writes the page of a folder of clips, see `write_sample_page`, if Matplotlib is there."""
    if _can_plot():
        from poolformer_jax.pages.samples import write_sample_page

        _LOG.info("Listen: %s", write_sample_page(folder, rows, settings))


def offer_scaling_page(path: AnyPath, study: Any) -> None:
    """Writes the page of several runs, see `write_scaling_page`, if Matplotlib is there."""
    if _can_plot():
        from poolformer_jax.pages.scaling import write_scaling_page

        _LOG.info("Look: %s", write_scaling_page(path, study))


def offer_metrics_page(folder: AnyPath, scores: Any) -> None:
    """Writes the page of scores, see `write_metrics_page`, if Matplotlib is there."""
    if _can_plot():
        from poolformer_jax.pages.scores import write_metrics_page

        _LOG.info("Look and listen: %s", write_metrics_page(folder, scores))


def _can_plot() -> bool:
    """Whether Matplotlib is there; results are on disk already, so its lack is no error."""
    try:
        require_matplotlib()
    except ImportError as error:
        _LOG.info("no page was written: %s", error)
        return False
    return True
