"""An experiment with a classifier: model, data, training and augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from ml_collections import config_dict

from poolformer_jax.classifier.config import AugmentConfig, ClassifierConfig, ClassifierTrainConfig
from poolformer_jax.data.config import NUM_CLASSES, LabelledDataConfig
from poolformer_jax.experiment.sections import default_sections, make_sections


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierExperiment:
    """What a run is made of; the defaults are the classifier published with SaShiMi.

    Raises:
      ValueError: If the parts do not fit together.
    """

    TRAIN_COMMAND: ClassVar[str] = (
        "python -m launch.train_classifier --config=configs/digits_classifier.py"
    )

    model: ClassifierConfig = ClassifierConfig()
    data: LabelledDataConfig = LabelledDataConfig()
    train: ClassifierTrainConfig = ClassifierTrainConfig()
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self):
        num_classes = NUM_CLASSES[self.data.name]
        if self.model.num_classes != num_classes:
            raise ValueError(
                f"model.num_classes {self.model.num_classes} does not fit data.name "
                f"{self.data.name!r}, which has {num_classes} classes; use {num_classes}"
            )


def default_config() -> config_dict.ConfigDict:
    """Every field with its default, locked: what configuration files start from."""
    return default_sections(ClassifierExperiment)


def make_classifier_experiment(config: Mapping[str, Any]) -> ClassifierExperiment:
    """Validates a configuration; see `make_sections`."""
    return make_sections(config, ClassifierExperiment)
