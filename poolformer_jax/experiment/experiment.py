"""An experiment: model, data and training configuration."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

from ml_collections import config_dict

from poolformer_jax.audio.codec import NUM_CODES, silence_code
from poolformer_jax.data.config import DataConfig
from poolformer_jax.experiment.sections import (
    default_sections,
    differences,
    make_sections,
    may_change,
    read_sections,
)
from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.training.config import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What a run is made of.

    Raises:
      ValueError: If the parts do not fit together.
    """

    TRAIN_COMMAND: ClassVar[str] = "python -m launch.train --config=configs/digits.py"

    model: PoolformerConfig = PoolformerConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self):
        for name in ("seq_len", "train_len"):
            length = getattr(self.data, name)
            if length is None:
                continue
            try:
                self.model.check_length(length)
            except ValueError as error:
                raise ValueError(f"data.{name} does not fit model.pool_factors: {error}") from None
        codec = self.data.codec
        for name, wanted in (
            ("num_codes", NUM_CODES[codec]),
            ("initial_code", silence_code(codec)),
        ):
            value = getattr(self.model, name)
            if value != wanted:
                raise ValueError(
                    f"model.{name} {value} does not fit data.codec {codec!r}; use {wanted}"
                )
        num_classes = self.data.dataset.num_classes
        if self.model.num_classes not in (0, num_classes):
            raise ValueError(
                f"model.num_classes {self.model.num_classes} does not fit data.name "
                f"{self.data.name!r}, which has {num_classes or 'no'} classes; use {num_classes}"
            )
        if self.train.label_dropout and not self.model.num_classes:
            raise ValueError(
                f"train.label_dropout {self.train.label_dropout} needs a model with classes; set "
                f"model.num_classes to {num_classes}, or train.label_dropout to 0"
            )


def default_config() -> config_dict.ConfigDict:
    """Every field with its default, locked: what configuration files start from."""
    return default_sections(Experiment)


def make_experiment(config: Mapping[str, Any]) -> Experiment:
    """Validates a configuration of sections `model`, `data` and `train`; see `make_sections`."""
    return make_sections(config, Experiment)


def read_experiment(workdir: pathlib.Path) -> Experiment:
    """Reads the resolved configuration of a run; see `read_sections`."""
    return read_sections(workdir, Experiment)


def check_evaluation(workdir: pathlib.Path, experiment: Experiment) -> None:
    """Checks that the parameters of the run in the workdir can be evaluated as configured.

    The data may be others, cut in another way, but what a code means is part of the model.

    Raises:
      FileNotFoundError: If the workdir holds no run.
      ValueError: If it was made with another model or codec (all differing fields are listed).
    """
    found = differences(read_experiment(workdir), experiment)
    fixed = [
        text
        for name, text in found.items()
        if (name.startswith("model.") and not may_change(name)) or name == "data.codec"
    ]
    if fixed:
        raise ValueError(
            f"--config is of another model than that in --workdir={workdir} (old -> new):\n  "
            + "\n  ".join(fixed)
            + "\ntake the old values, or leave --config out to use the run's own configuration"
        )
