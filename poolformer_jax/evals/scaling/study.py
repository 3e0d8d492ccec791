"""Trainings of several sizes beside each other: their points, and the laws through them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from poolformer_jax.evals.scaling.power_law import (
    MIN_VALUES,
    PowerLaw,
    fit_power_law,
    num_different,
)
from poolformer_jax.evals.text_table import text_table

QUANTITIES: Mapping[str, str] = {
    "parameters": "N",
    "samples": "D",
    "flops": "C",
    "chips": "P",
    "chip_hours": "H",
}
"""What the loss is shown against, and the letter of each in its law."""

HEADER = ("", "parameters", "samples", "FLOPs", "chips", "chip-hours", "step", "of", "bits/sample")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A training and its validations, of which the best is its point in the study.

    Attributes:
      name: To tell it from the others.
      parameters: Of the model.
      chips: Devices of its last start.
      num_steps: Of the whole training.
      last_step: That it has taken.
      steps: Of each validation after the first step whose loss is finite; in order.
      bits: Validation bits per sample, then.
      samples: Samples in the loss of all steps until then, padding left out.
      flops: Of all steps until then, padding included, and no recomputation.
      chip_hours: Of all steps until then, without compilation, validation and checkpoints; NaN
        where the log does not tell.
    """

    name: str
    parameters: int
    chips: int
    num_steps: int
    last_step: int
    steps: Int64[np.ndarray, " n"]
    bits: Float64[np.ndarray, " n"]
    samples: Float64[np.ndarray, " n"]
    flops: Float64[np.ndarray, " n"]
    chip_hours: Float64[np.ndarray, " n"]

    @property
    def point(self) -> dict[str, int | float]:
        """Bits, step and quantities at the best validation."""
        best = int(self.bits.argmin())
        return {
            "parameters": self.parameters,
            "samples": round(self.samples[best]),
            "flops": round(self.flops[best]),
            "chips": self.chips,
            "chip_hours": float(self.chip_hours[best]),
            "step": int(self.steps[best]),
            "bits_per_sample": float(self.bits[best]),
        }

    @property
    def row(self) -> tuple[str, ...]:
        """The point as text; see `HEADER`."""
        point = self.point
        hours = point["chip_hours"]
        return (
            self.name,
            f"{self.parameters:,}",
            f"{point['samples']:.3g}",
            f"{point['flops']:.3g}",
            f"{self.chips:,}",
            "" if math.isnan(hours) else f"{hours:.3g}",
            f"{point['step']:,}",
            f"{self.num_steps:,}",
            f"{point['bits_per_sample']:.3f}",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Trainings, smallest first, and what they say together.

    Attributes:
      runs: The trainings.
      laws: By the quantity that the loss falls with.
      without_law: Why the others have none.
      notes: What to know about the runs, in sentences.
    """

    runs: Sequence[TrainedRun]
    laws: Mapping[str, PowerLaw]
    without_law: Mapping[str, str]
    notes: Sequence[str]

    @property
    def text(self) -> str:
        """The table, the laws and the notes, for the terminal."""
        table = text_table([run.row for run in self.runs], HEADER)
        laws = [describe(self, quantity) for quantity in QUANTITIES]
        return "\n".join([table, "", *laws, *self.caveats, *self.notes])

    @property
    def values(self) -> dict[str, Any]:
        """The same for JSON, which knows no NaN and no infinity: they are null."""
        runs = [
            {"name": run.name, "num_steps": run.num_steps, "last_step": run.last_step} | run.point
            for run in self.runs
        ]
        laws = {
            name: dataclasses.asdict(law) | {"caveats": law.caveats}
            for name, law in self.laws.items()
        }
        values = {"runs": runs, "laws": laws, "without_law": dict(self.without_law)}
        return _finite(values | {"notes": [*self.notes]})

    def points(self, quantity: str) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """(quantity, bits per sample) of the runs."""
        points = [run.point for run in self.runs]
        return (
            np.array([point[quantity] for point in points], np.float64),
            np.array([point["bits_per_sample"] for point in points]),
        )

    @property
    def caveats(self) -> list[str]:
        """What the laws do not show, each sentence once, behind the quantities that it is of."""
        of: dict[str, list[str]] = {}
        for quantity, law in self.laws.items():
            for caveat in law.caveats:
                of.setdefault(caveat, []).append(quantity.replace("_", "-"))
        return [f"{', '.join(names)}: {caveat}" for caveat, names in of.items()]


def make_study(runs: Sequence[TrainedRun], notes: Sequence[str] = ()) -> Study:
    """Fits the laws that the runs allow."""
    study = Study(
        runs=sorted(runs, key=lambda run: run.parameters), laws={}, without_law={}, notes=[]
    )
    laws, without_law = {}, {}
    for quantity in QUANTITIES:
        x, bits = study.points(quantity)
        if quantity == "chips":
            without_law[quantity] = "chips change how long a training takes, not what it learns"
        elif not np.isfinite(x).all():
            without_law[quantity] = "the logs of some runs do not tell it"
        elif (different := num_different(x)) < MIN_VALUES:
            without_law[quantity] = (
                f"the runs have {different} different value{'s' * (different != 1)}, and a law "
                f"needs {MIN_VALUES}"
            )
        else:
            laws[quantity] = fit_power_law(x, bits)
    return dataclasses.replace(
        study, laws=laws, without_law=without_law, notes=[*notes, *_notes(study)]
    )


def describe(study: Study, quantity: str) -> str:
    """A law with its interval, or why there is none."""
    name = quantity.replace("_", "-")
    if quantity not in study.laws:
        return f"{name}: no law; {study.without_law[quantity]}"
    law, symbol = study.laws[quantity], QUANTITIES[quantity]
    floor = "" if law.floor_interval is None else f"{law.floor:.3f} + "
    low, high = law.exponent_interval
    text = f"{name}: L = {floor}{law.scale:.3g} {symbol}^-{law.exponent:.3g}"
    text += f", exponent {low:.3g} to {high:.3g}"
    if law.floor_interval is not None:
        text += ", floor {:.3f} to {:.3f}".format(*law.floor_interval)
    return f"{text} ({law.confidence:.0%}); points lie {law.residual:.2g} bits about it"


def _notes(study: Study) -> list[str]:
    notes = []
    if going_on := [run for run in study.runs if run.last_step < run.num_steps]:
        steps = ", ".join(f"{run.name} {run.last_step:,} of {run.num_steps:,}" for run in going_on)
        notes.append(f"Not finished, steps: {steps}.")
    for run in study.runs:
        if run.point["step"] < run.steps[-1]:
            notes.append(
                f"The best validation of {run.name} is that of step {run.point['step']:,}; that of "
                f"step {run.steps[-1]:,} is {run.bits[-1]:.3f}."
            )
    samples, _ = study.points("samples")
    sizes, _ = study.points("parameters")
    if num_different(sizes) > 1 and num_different(samples) > 1:
        notes.append(
            f"The runs differ in parameters and in samples ({samples.min():.3g} to "
            f"{samples.max():.3g}): a law of either is of both together."
        )
    return notes


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {name: _finite(one) for name, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
