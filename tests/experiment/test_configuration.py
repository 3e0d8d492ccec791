import dataclasses
import functools
import re
from typing import ClassVar

import pytest

from poolformer_jax.experiment import (
    ClassifierExperiment,
    Experiment,
    UserError,
    config_file,
    default_config,
    experiment_values,
    make_experiment,
    named_config,
    named_configs,
    replace,
)
from poolformer_jax.experiment.configuration import flat_values
from poolformer_jax.models import registry
from poolformer_jax.models.config import SequenceModelConfig
from poolformer_jax.models.sequence_model import count_params
from poolformer_jax.training.config import TrainConfig

CLASSIFIER_CONFIGS = [name for name in named_configs() if name.endswith("_classifier")]
PARAMETERS = {
    "digits": 143_616,
    "digits_pitches": 1_804_800,
    "digits_steady": 1_804_800,
    "fsdd": 143_616,
    "sc09": 7_272_704,
    "beethoven": 7_272_704,
    "youtubemix": 7_272_448,  # One pool of 4 instead of 5: 2 x 128 taps fewer.
    "youtubemix_crops": 7_272_448,
    "baselines/attention_center": 6_294_176,
    "baselines/attention_local": 6_286_592,
    "baselines/mamba": 6_255_104,
    "baselines/mamba_large": 24_851_008,
    "baselines/poolformer_mamba": 6_904_064,
    "baselines/poolformer_s4d": 6_890_240,
    "baselines/sashimi": 6_820_512,
    "baselines/sashimi_ar": 4_751_072,
    "baselines/sashimi_s4d": 6_492_832,
    "baselines/sashimi_tied": 5_845_152,
}
SMALL_PARAMETERS = {
    "baselines/attention_center": 143_284,
    "baselines/attention_local": 143_488,
    "baselines/mamba": 141_216,
    "baselines/mamba_large": 141_916,
    "baselines/poolformer_mamba": 144_896,
    "baselines/poolformer_s4d": 144_768,
    "baselines/sashimi": 140_412,
    "baselines/sashimi_ar": 143_312,
    "baselines/sashimi_s4d": 145_116,
    "baselines/sashimi_tied": 142_168,
}
OFTEN = ("baselines/mamba", "baselines/poolformer_mamba", "baselines/sashimi")


@functools.cache
def count_once(model_config):
    return count_params(model_config.build())


@pytest.mark.parametrize("name", [*named_configs()])
def test_every_config_says_its_command(name):
    binary = "train_classifier" if name in CLASSIFIER_CONFIGS else "train"
    command = f"python -m launch.{binary} --config=configs/{name}.py"
    assert command in config_file(name).read_text().partition("import")[0]


@pytest.mark.parametrize("name", sorted({*named_configs()} - {*CLASSIFIER_CONFIGS, "scaling"}))
def test_every_config_builds_with_its_parameter_count(name):
    experiment = make_experiment(named_config(name))
    assert PARAMETERS.get(name, 0) in (0, count_once(experiment.model))
    assert name in PARAMETERS or name.startswith("ablations/")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow)
        for name in SMALL_PARAMETERS
    ],
)
def test_small_baselines_match_poolformer(name):
    models = set()
    for data in ("digits", "fsdd"):
        experiment, poolformer = map(make_experiment, map(named_config, (f"{name}:{data}", data)))
        models.add(experiment.model)
        # The same data, and the same recipe but for parameters of state spaces.
        assert experiment.data == poolformer.data
        assert dataclasses.replace(experiment.train, parameter_groups=()) == poolformer.train
    (model,) = models
    count = count_once(model)
    assert f"{count:,}" in config_file(name).read_text() and count == SMALL_PARAMETERS[name]
    assert count == pytest.approx(PARAMETERS["digits"], rel=0.05)


def test_ablation_changes_the_mixer_alone():
    digits, lru = (
        make_experiment(named_config(name)) for name in ("digits", "ablations/digits_lru")
    )
    assert lru.model.mixer.kind == "lru" and digits.model.mixer.kind == "rg_lru"
    model = dataclasses.replace(lru.model, mixer=digits.model.mixer)
    assert dataclasses.replace(lru, model=model) == digits


@pytest.mark.parametrize("name", CLASSIFIER_CONFIGS)
def test_every_classifier_config_builds(name):
    experiment = make_experiment(named_config(name), ClassifierExperiment)
    is_published = experiment.model.kind == "resnext29_8x64d"
    assert is_published == (name == "sc09_classifier")
    if is_published:
        assert experiment == ClassifierExperiment()


def test_published_classifier_recipe():
    train, augment = ClassifierExperiment().train, ClassifierExperiment().augment
    assert (train.optimizer, train.schedule, train.ema_decay) == ("sgd", "plateau", 0.0)
    assert (train.batch_size, train.plateau_patience) == (96, 5)
    assert train.num_steps == 70 * train.eval_every  # 70 epochs.
    assert (train.learning_rate, train.momentum, train.weight_decay) == (1e-2, 0.9, 1e-2)
    assert (train.plateau_factor, augment.probability) == (0.1, 0.5)


def test_sc09_is_the_published_recipe():
    experiment = make_experiment(named_config("sc09"))
    # The same gradient, a clip at a time.
    assert experiment.train == dataclasses.replace(TrainConfig(), grad_accum_steps=None)
    assert experiment.model.dropout == 0.2
    assert experiment.model.pool_factors == (2, 4, 4, 5)


@pytest.mark.parametrize("kind", [Experiment, ClassifierExperiment])
def test_default_config_is_the_default_experiment(kind):
    assert make_experiment(default_config(kind), kind) == kind()
    assert make_experiment({}, kind) == kind()


def test_a_file_starts_from_a_model_of_any_kind(monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(SequenceModelConfig):
        kind: ClassVar[str] = "other"
        depth: int | None = None

    monkeypatch.setattr(registry, "MODELS", {**registry.MODELS, "other": Other})
    config = default_config(model="other")
    config.model.depth = 3
    assert make_experiment(config).model == Other(depth=3)
    assert default_config(ClassifierExperiment, model="small").model.kind == "small"
    with pytest.raises(ValueError, match=r"config.model.kind is 'rnn'; known: poolformer, .*other"):
        default_config(model="rnn")


def test_default_config_is_locked():
    config = default_config()
    with pytest.raises(AttributeError, match="widht"):
        config.model.widht = 3
    config.model.pool_groups = 4  # A field whose default is None can be set all the same.
    assert make_experiment(config).model.pool_groups == 4


def test_a_name_or_a_file_names_a_configuration(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from poolformer_jax.experiment import named_config\n"
        "def get_config(width):\n"
        "    config = named_config('digits')\n"
        "    config.model.width = int(width)\n"
        "    return config\n"
    )
    assert named_config(f"{path}:64").model.width == 64
    assert config_file("digits").name == "digits.py"
    with pytest.raises(UserError, match=r"line \d+: .* follows the colon, 'tiny'; known: .*'fsdd'"):
        named_config("baselines/mamba:tiny")
    with pytest.raises(UserError, match=r"digitz is neither a file nor one of .*, digits, .*sc09"):
        named_config("digitz")


BEGIN = "from poolformer_jax.experiment import named_config\ndef get_config():\n"
CONFIG_FILES = {
    "a syntax error": ("x = 1\ndef get_config(:\n", "line 2: SyntaxError: invalid syntax"),
    "a dict": (
        "\ndef get_config():\n    return {'a': 1}\n",
        r"line 2: .* returns {'a': 1}; it",
    ),
    "nothing": ("def get_config():\n    pass\n", r"line 1: get_config\(\) returns None; it must"),
    "an error": (BEGIN + "    return 1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
    "an exit": ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
    "another type": (
        BEGIN + "    named_config('digits').model.width = 'abc'\n",
        "line 3: TypeError: Could not override field 'width'",
    ),
    "a misspelt field": (
        BEGIN + "    named_config('digits').model.widht = 3\n",
        'line 3: AttributeError: Key "widht" .* locked. Did you mean "width"',
    ),
    "another name": (BEGIN + "    return named_config('digitz')\n", "line 3: digitz is neither"),
    "no get_config": ("x = 1\n", ": it defines no function get_config"),
    "a parameter": ("def get_config(width):\n    pass\n", "line 1: .*missing .*'width'"),
    "a NUL byte": ("x = 1\ny = '\0'\n", "line 2: a NUL byte"),
    "another encoding": (b"x = 1\n\xff\n", "line 2: SyntaxError: .*'utf-8' codec can't decode"),
}


@pytest.mark.parametrize("fault", CONFIG_FILES)
def test_a_fault_in_a_file_is_named_with_its_line(tmp_path, fault):
    content, message = CONFIG_FILES[fault]
    path = tmp_path / "mine.py"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"^{path}.*{message}") as error:
        named_config(str(path))
    assert len(str(error.value).splitlines()) == 1


def test_what_is_no_file_of_a_configuration(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config.json, line 1: .* is a Python file .* no JSON"):
        named_config(str(tmp_path / "config.json"))
    for name in ("", "a\0b", "x" * 5000, "~no-such-user/mine.py", "."):
        with pytest.raises(UserError, match=r"one of the names .*digits"):
            config_file(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_file("~/config.json") == tmp_path / "config.json"


def test_values_make_the_experiment_again():
    experiment = make_experiment(named_config("ablations/digits_lru"))
    assert make_experiment(experiment_values(experiment)) == experiment
    assert flat_values(experiment)["model.mixer.kind"] == "lru"


def test_fields_are_replaced_and_the_rest_stays():
    digits = make_experiment(named_config("digits"))
    longer = replace(digits, train={"num_steps": 10}, model={"mixer": {"recurrent_width": 128}})
    assert longer.train.num_steps == 10 and longer.model.mixer.recurrent_width == 128
    assert longer.model.mixer.num_gate_blocks == digits.model.mixer.num_gate_blocks
    assert longer.data == digits.data
    # Of another kind, nothing stays.
    lru = replace(digits, model={"mixer": {"kind": "lru", "recurrent_width": 16}})
    assert lru.model.mixer.kind == "lru" and lru.model.mixer.recurrent_width == 16


def test_a_flag_chooses_another_kind_than_the_file_wrote_out(caplog):
    config = named_config("digits")
    config.model.mixer.kind = "lru"
    mixer = make_experiment(config).model.mixer
    # The other field of the old kind has its default: nobody set it.
    assert [record.message for record in caplog.records] == [
        "config.model.mixer.num_gate_blocks 8 is ignored: kind 'lru' has no such field"
    ]
    assert (mixer.kind, mixer.recurrent_width) == ("lru", 64)
    assert not hasattr(mixer, "num_gate_blocks")
    config.model.mixer.kind = "rnn"
    with pytest.raises(
        ValueError, match=r"^config.model.mixer.kind is 'rnn'; known: rg_lru, lru, "
    ):
        make_experiment(config)


MISTAKES = [
    (Experiment, {"model": 3}, "config.model is 3; it must be a section of fields"),
    (Experiment, {"model": {"kind": []}}, r"config.model.kind is \[\]; known: poolformer"),
    (
        Experiment,
        {"model": {"width": "x" * 999}},
        r"width is 'x{80}'\.\.\.; it must be int$",
    ),
    (Experiment, {"train": {"num_steps": 2**31}}, "num_steps 2147483648 must be at most 2,147,483"),
    (
        Experiment,
        {"train": {"batch_size": 10**6}},
        "train.batch_size 1000000 must be at most 134",
    ),
    (Experiment, {"modle": {}}, "unknown section .*modle"),
    (
        Experiment,
        {"model": {"depth": 3}},
        "unknown field .*depth.* in config.model.*; known: .*",
    ),
    (
        Experiment,
        {"model": {"mixer": {"kind": "lru", "num_gate_blocks": 8, "num_gates": 3}}},
        r"unknown field \['num_gates'\] in config.model.mixer of kind 'lru'; known: .*max_phase",
    ),
    (Experiment, {"model": {"kind": "rnn"}}, "config.model.kind is 'rnn'; known: poolformer"),
    (Experiment, {"train": {"batch_size": 0}}, "config.train: batch_size 0"),
    (
        Experiment,
        {"data": {"seq_len": 16001}},
        "data.seq_len 16001 .* of 160, .*; use 16000 or 16160",
    ),
    (Experiment, {"data": {"train_len": 100}}, "data.train_len 100 .* of 160, .*; use 160"),
    (Experiment, {"model": {"num_codes": 200}}, "num_codes 200 does not fit .* use 256"),
    (Experiment, {"data": {"codec": "pcm16"}}, "num_codes 256 does not fit .*'pcm16'; use 65536"),
    (
        Experiment,
        {"data": {"codec": "pcm16"}, "model": {"num_codes": 65536}},
        "initial_code 128 does not fit .* use 32768",
    ),
    (
        Experiment,
        {"model": {"num_classes": 10}, "data": {"name": "beethoven"}},
        "num_classes 10 does not fit .*'beethoven', which has no classes; use 0",
    ),
    (Experiment, {"train": {"label_dropout": 0.1}}, "label_dropout 0.1 needs a model with classes"),
    (
        Experiment,
        {"train": {"onset_weight": 2.0}, "data": {"crop": "random", "train_len": 1_600}},
        "onset_weight 2.0 weights the start of a clip, but data.crop 'random' begins elsewhere",
    ),
    (
        ClassifierExperiment,
        {"data": {"name": "youtubemix"}},
        "config.data: the data set 'youtubemix' has no labels",
    ),
    (
        ClassifierExperiment,
        {"model": {"num_classes": 9}},
        "num_classes 9 does not fit .*which has 10 classes; use 10",
    ),
    (ClassifierExperiment, {"train": {"label_dropout": 0.1}}, "label_dropout 0.1 .*; use 0$"),
    (
        ClassifierExperiment,
        {"train": {"onset_weight": 1.0}},
        "onset_weight 1.0 .* whole clips; use 0",
    ),
    (
        Experiment,
        {"train": {"onsets": (0, 803)}},
        r"onsets \(0, 803\) need an onset_weight above 0",
    ),
    (
        Experiment,
        {"train": {"onset_weight": 2.0, "onsets": (-1,)}},
        r"onsets \(-1,\) must be samples of a clip, 0 or more",
    ),
    (
        Experiment,
        {"train": {"onset_weight": 2.0, "onsets": (0, 803)}, "data": {"seq_len": 640}},
        r"train.onsets \(0, 803\) must be below the 640 samples of a training clip",
    ),
    (
        ClassifierExperiment,
        {"train": {"sampled_inputs": 0.5}},
        "sampled_inputs 0.5 does not fit a classifier: it draws nothing; use 0",
    ),
    (ClassifierExperiment, {"train": {"optimizer": "muon"}}, "'muon' .*; use 'sgd' or 'adamw'"),
    (Experiment, {"train": {"sampled_inputs": 1.5}}, "sampled_inputs 1.5 must be a share, 0 to 1"),
    (
        ClassifierExperiment,
        {"train": {"init_from": "digits"}},
        "init_from 'digits' is for sequence",
    ),
    (ClassifierExperiment, {"train": {"ema_decay": 0.9}}, "ema_decay 0.9 .* statistics; use 0$"),
    (ClassifierExperiment, {"augment": {"probability": 2.0}}, "augment: probability 2.0 must be"),
    (
        ClassifierExperiment,
        {"train": {"num_epochs": 3}},
        "unknown field .*num_epochs.* in config",
    ),
]


@pytest.mark.parametrize(("kind", "config", "message"), MISTAKES)
def test_mistakes_are_named(kind, config, message):
    with pytest.raises(ValueError) as error:
        make_experiment(config, kind)
    assert re.search(message, str(error.value)), error.value
