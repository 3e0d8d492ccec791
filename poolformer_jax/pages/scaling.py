"""One page about runs of several sizes: how the loss falls with parameters, samples, FLOPs."""

from __future__ import annotations

import pathlib

from poolformer_jax import own_files
from poolformer_jax.evals.scaling.study import HEADER, QUANTITIES, Study, describe
from poolformer_jax.files import write_whole
from poolformer_jax.pages import html as page
from poolformer_jax.pages.plots import plot_scaling


def write_scaling_page(path: pathlib.Path, study: Study) -> pathlib.Path:
    """Writes the page, and returns its path.

    Raises:
      FileExistsError: If a file of somebody else is there.
    """
    own = [path.name] if page.is_document(path) else []
    own_files.claim(path.parent, [path.name], own=own)
    write_whole(path, render_page(study))
    return path


def render_page(study: Study) -> str:
    """Returns the whole page as HTML text."""
    picture = page.picture(
        plot_scaling(study),
        "Validation bits per sample against parameters, samples, FLOPs and chips",
        caption="Points: the best validation of each run. Pale lines: its validations before and "
        "after. Orange: the law, within the range that it was fitted to.",
        kind="wide",
    )
    return page.document(
        "Loss against size",
        [
            *map(page.warning, study.notes),
            page.section("Runs", _runs(study)),
            page.section("Loss", picture),
            page.section("Laws", _laws(study)),
            page.section("What is counted", _counted()),
        ],
    )


def _runs(study: Study) -> str:
    return page.table([run.row for run in study.runs], header=HEADER, numeric=True)


def _laws(study: Study) -> str:
    laws = [describe(study, quantity).split(": ", 1) for quantity in QUANTITIES]
    about = (
        "Least squares; intervals of the profile likelihood, for independent normal errors of "
        "equal and unknown size. Neither the seed nor the recipe of each size is in them."
    )
    return page.table(laws) + "".join(map(page.caption, [*study.caveats, about]))


def _counted() -> str:
    return page.table(
        [
            ["Loss", "the best validation: bits per sample of the averaged weights"],
            ["Samples", "in the loss of all steps until then, repeated epochs included"],
            [
                "FLOPs",
                "three times those of the forward pass's matrix products, each level at its rate, "
                "padding included and recomputation not",
            ],
            ["Chips", "devices of the run's last start"],
            ["Chip-hours", "of training steps, without compilation, validation and checkpoints"],
        ]
    )
