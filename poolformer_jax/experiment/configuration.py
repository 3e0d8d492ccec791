"""Experiments: sections of configuration that fit together.

ConfigDicts end here. Beyond, there are frozen data classes that have been validated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, get_type_hints

from ml_collections import config_dict

from poolformer_jax.audio.codec import NUM_CODES, silence_code
from poolformer_jax.classifier.config import AugmentConfig, ClassifierConfig
from poolformer_jax.config_checks import check_batch, config_type_of, config_values, make_config
from poolformer_jax.data.config import DataConfig, LabelledDataConfig
from poolformer_jax.files import quoted
from poolformer_jax.mesh_config import MeshConfig
from poolformer_jax.models.config import SequenceModelConfig, check_length
from poolformer_jax.models.registry import DEFAULT_MODEL
from poolformer_jax.training.config import TrainConfig

T = TypeVar("T", bound="Sections")


class Sections:
    """A data class whose fields are configurations, the sections of a configuration file.

    Attributes:
      TRAIN_COMMAND: What makes a run of it, but for the workdir.
    """

    TRAIN_COMMAND: ClassVar[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment(Sections):
    """What a run of a sequence model is made of.

    Raises:
      ValueError: If the parts do not fit together.
    """

    TRAIN_COMMAND: ClassVar[str] = "python -m launch.train --config=configs/digits.py"

    model: SequenceModelConfig = DEFAULT_MODEL
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        for name in ("seq_len", "train_len"):
            length = getattr(self.data, name)
            if length is not None:
                check_length(self.model, length, what=f"data.{name}")
        check_batch("train.batch_size", self.train.batch_size, self.data.training_length)
        check_batch("train.eval_batch_size", self.train.eval_batch_size, self.data.seq_len)
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
        if self.train.onset_weight and self.data.crop != "start":
            raise ValueError(
                f"train.onset_weight {self.train.onset_weight} weights the start of a clip, but "
                f"data.crop {self.data.crop!r} begins elsewhere; set one to 0, or the other to "
                "'start'"
            )
        if max(self.train.onsets) >= self.data.training_length:
            raise ValueError(
                f"train.onsets {self.train.onsets} must be below the {self.data.training_length:,} "
                "samples of a training clip"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierExperiment(Sections):
    """What a run of a classifier is made of; the defaults are the one published with SaShiMi.

    Raises:
      ValueError: If the parts do not fit together.

    Source of the recipe: https://github.com/tugstugi/pytorch-speech-commands, values of
    TRAINING.md.
    """

    TRAIN_COMMAND: ClassVar[str] = (
        "python -m launch.train_classifier --config=configs/digits_classifier.py"
    )

    model: ClassifierConfig = ClassifierConfig()
    data: LabelledDataConfig = LabelledDataConfig()
    train: TrainConfig = TrainConfig(
        num_steps=70 * 325,
        batch_size=96,
        optimizer="sgd",
        learning_rate=1e-2,
        warmup_steps=0,
        schedule="plateau",
        weight_decay=1e-2,
        clip_norm=None,
        skip_norm=None,
        ema_decay=0.0,
        eval_every=325,
        eval_batch_size=96,
        checkpoint_every=325,
    )
    augment: AugmentConfig = AugmentConfig()

    def __post_init__(self):
        if self.train.grad_accum_steps is None:
            raise ValueError(
                "train.grad_accum_steps None is a clip at a time, but the classifier is normalised "
                "over several; use 1"
            )
        num_classes = self.data.dataset.num_classes
        if self.model.num_classes != num_classes:
            raise ValueError(
                f"model.num_classes {self.model.num_classes} does not fit data.name "
                f"{self.data.name!r}, which has {num_classes} classes; use {num_classes}"
            )
        for name, why in (
            ("label_dropout", "a classifier learns every label"),
            ("onset_weight", "it reads whole clips"),
            ("sampled_inputs", "it draws nothing"),
            ("ema_decay", "averaged parameters do not fit the running statistics"),
        ):
            if value := getattr(self.train, name):
                raise ValueError(f"train.{name} {value} does not fit a classifier: {why}; use 0")
        if self.train.optimizer == "muon":
            raise ValueError(
                "train.optimizer 'muon' is for the layers of sequence models; use 'sgd' or 'adamw'"
            )
        if self.train.init_from is not None:
            raise ValueError(
                f"train.init_from {self.train.init_from!r} is for sequence models, not for a "
                "classifier; use None"
            )


def default_config(
    kind: type[Sections] = Experiment, *, model: str | None = None
) -> config_dict.ConfigDict:
    """Every field with its default, locked: what configuration files start from.

    Args:
      kind: Of the experiment.
      model: Kind of the model, such as "poolformer"; the default one if None.

    Raises:
      ValueError: If there is no such model.
    """
    experiment = make_experiment({"model": {"kind": model}} if model else {}, kind)
    values = {
        name: _with_placeholders(section) for name, section in _section_configs(experiment).items()
    }
    return config_dict.ConfigDict(values).lock()


def make_experiment(
    config: Mapping[str, Any] | config_dict.ConfigDict,
    kind: type[T] = Experiment,  # type: ignore[assignment]
) -> T:
    """Validates a configuration, a nested mapping or ConfigDict; sections left out are default.

    Raises:
      ValueError: For an unknown section or field, or a value that cannot work; the message names
        it.
    """
    given = config.to_dict() if isinstance(config, config_dict.ConfigDict) else config
    default, hints = experiment_values(kind()), get_type_hints(kind)
    if unknown := sorted(set(given) - set(default)):
        raise ValueError(f"unknown section {unknown}; known: {sorted(default)}")
    values = _merge(default, given)
    for name, section in values.items():
        if not isinstance(section, Mapping):
            raise ValueError(f"config.{name} is {quoted(section)}; it must be a section of fields")
    return kind(
        **{name: make_config(hints[name], values[name], name=f"config.{name}") for name in values}
    )


def replace(experiment: T, **sections: Mapping[str, Any]) -> T:
    """An experiment with some fields changed: `replace(experiment, train={"num_steps": 100})`.

    Raises:
      ValueError: As `make_experiment`.
    """
    return make_experiment(_merge(experiment_values(experiment), sections), type(experiment))


def experiment_values(experiment: Sections) -> dict[str, dict[str, Any]]:
    """Nested dicts, as config.json holds them; the opposite of `make_experiment`."""
    return {name: config_values(part) for name, part in _section_configs(experiment).items()}


def flat_values(experiment: Sections) -> dict[str, Any]:
    """Values by dotted name, such as `model.mixer.recurrent_width`."""

    def flatten(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, Mapping):
                out |= flatten(value, f"{prefix}{name}.")
            else:
                out[f"{prefix}{name}"] = value
        return out

    return flatten(experiment_values(experiment), "")


def _section_configs(experiment: Sections) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(experiment)]  # type: ignore[arg-type]
    return {name: getattr(experiment, name) for name in names}


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` over `old`, mapping by mapping; one of another kind replaces the whole."""
    merged = dict(old)
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            same_kind = value.get("kind", before.get("kind")) == before.get("kind")
            merged[name] = _merge(before, value) if same_kind else dict(value)
        else:
            merged[name] = value
    return merged


def _with_placeholders(config: Any) -> dict[str, Any]:
    """Values of a configuration; None has no type, so a placeholder lets flags set the field."""
    hints = get_type_hints(type(config))

    def value_of(name: str, value: Any) -> Any:
        if dataclasses.is_dataclass(getattr(config, name, None)):
            return _with_placeholders(getattr(config, name))
        if value is not None:
            return value
        (kind,) = (t for t in hints[name].__args__ if t is not type(None))
        # Files give a configuration as a mapping.
        return config_dict.placeholder(object if config_type_of(kind) else kind)

    return {name: value_of(name, value) for name, value in config_values(config).items()}
