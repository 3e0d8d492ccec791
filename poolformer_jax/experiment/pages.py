"""Pictures and pages of a run; they need Matplotlib, the extra `report`."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from poolformer_jax.experiment.errors import user_errors


def plot_loss(workdir: str | os.PathLike[str]) -> Any:
    """Plots the loss over the steps of a run, as a Matplotlib figure.

    Raises:
      UserError: If the run or Matplotlib is missing.
    """
    with user_errors():
        with _matplotlib():
            from poolformer_jax.pages.plots import plot_loss
        from poolformer_jax.pages.run_files import load_run

        return plot_loss(load_run(workdir))


def write_report(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes the page of a run, `report.html` in its workdir.

    Raises:
      UserError: If the run or Matplotlib is missing.
    """
    with user_errors():
        with _matplotlib():
            from poolformer_jax.pages.report import write_report
        return write_report(workdir)


@contextlib.contextmanager
def _matplotlib() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        raise ImportError("the report needs matplotlib: pip install -e '.[report]'") from error
