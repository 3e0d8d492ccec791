import dataclasses
import importlib
import json
import pathlib

import pytest

from poolformer_jax.experiment.classifier import ClassifierExperiment, make_classifier_experiment
from poolformer_jax.experiment.experiment import (
    Experiment,
    check_evaluation,
    default_config,
    make_experiment,
    read_experiment,
)
from poolformer_jax.experiment.sections import check_workdir, write_experiment
from poolformer_jax.models.poolformer.model import count_params
from poolformer_jax.training.config import TrainConfig

CONFIGS = sorted(path.stem for path in pathlib.Path("configs").glob("[!_]*.py"))
CLASSIFIER_CONFIGS = [name for name in CONFIGS if name.endswith("_classifier")]
PARAMETERS = {
    "digits": 143_616,
    "fsdd": 143_616,
    "sc09": 7_272_704,
    "beethoven": 7_272_704,
    "youtubemix": 7_272_448,  # One pool of 4 instead of 5: 2 x 128 taps fewer.
    "youtubemix_crops": 7_272_448,
}


def load_config(name):
    module = importlib.import_module(f"configs.{name}")
    assert f"--config=configs/{name}.py" in module.__doc__
    return module.get_config().to_dict()


@pytest.mark.parametrize("name", sorted({*CONFIGS} - {*CLASSIFIER_CONFIGS}))
def test_every_config_builds_with_its_parameter_count(name):
    experiment = make_experiment(load_config(name))
    assert count_params(experiment.model) == PARAMETERS[name]


@pytest.mark.parametrize("name", CLASSIFIER_CONFIGS)
def test_every_classifier_config_builds(name):
    experiment = make_classifier_experiment(load_config(name))
    is_published = experiment.model.kind == "resnext29_8x64d"
    assert is_published == (name == "sc09_classifier")
    if is_published:
        assert experiment == ClassifierExperiment()


def test_published_classifier_recipe():
    train, augment = ClassifierExperiment().train, ClassifierExperiment().augment
    assert (train.batch_size, train.num_epochs, train.plateau_patience) == (96, 70, 5)
    assert (train.learning_rate, train.momentum, train.weight_decay) == (1e-2, 0.9, 1e-2)
    assert (train.plateau_factor, augment.probability) == (0.1, 0.5)


def test_sc09_is_the_published_recipe():
    config = importlib.import_module("configs.sc09").get_config()
    experiment = make_experiment(config.to_dict())
    assert experiment.train == TrainConfig()
    assert experiment.model.dropout == 0.2
    assert experiment.model.pool_factors == (2, 4, 4, 5)


def test_default_config_is_the_default_experiment_and_locked():
    config = default_config()
    assert make_experiment(config.to_dict()) == Experiment()
    with pytest.raises(AttributeError, match="widht"):
        config.model.widht = 3
    config.model.pool_groups = 4  # A field whose default is None can be set all the same.
    assert make_experiment(config.to_dict()).model.pool_groups == 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"modle": {}}, "unknown section .*modle"),
        ({"model": {"depth": 3}}, "unknown field .*depth.* in model; known: .*width"),
        ({"train": {"batch_size": 0}}, "config.train: batch_size 0"),
        ({"data": {"seq_len": 16001}}, "data.seq_len .* 16001 .* 160; pad to 16160"),
        ({"model": {"num_codes": 200}}, "model.num_codes 200 does not fit .* use 256"),
        ({"data": {"codec": "pcm16"}}, "num_codes 256 does not fit data.codec 'pcm16'; use 65536"),
        (
            {"data": {"codec": "pcm16"}, "model": {"num_codes": 65536}},
            "initial_code 128 does not fit .* use 32768",
        ),
        ({"data": {"train_len": 100}}, "data.train_len .* 100 .* 160; pad to 160"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        make_experiment(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"data": {"name": "youtubemix"}}, "config.data: the data set 'youtubemix' has no labels"),
        (
            {"model": {"num_classes": 9}},
            "num_classes 9 does not fit .*which has 10 classes; use 10",
        ),
        ({"augment": {"probability": 2.0}}, "config.augment: probability 2.0 must be in"),
        ({"train": {"num_steps": 3}}, "unknown field .*num_steps.* in train; known: .*num_epochs"),
    ],
)
def test_mistakes_in_a_classifier_experiment_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        make_classifier_experiment(config)


def test_workdir_round_trip(tmp_path):
    config = default_config()
    config.model.dropout = 0.1
    config.data.data_dir = "somewhere"
    experiment = make_experiment(config.to_dict())
    assert check_workdir(tmp_path / "new" / "run", experiment) == []
    write_experiment(tmp_path / "new" / "run", experiment)
    assert read_experiment(tmp_path / "new" / "run") == experiment
    assert json.loads((tmp_path / "new" / "run" / "config.json").read_text())["model"]["layers"]


def test_another_model_or_data_is_refused_and_listed(tmp_path):
    write_experiment(tmp_path, Experiment())
    other = Experiment(
        model=dataclasses.replace(Experiment().model, width=64, gating=False, remat=True),
        data=dataclasses.replace(Experiment().data, codec="linear"),
    )
    with pytest.raises(ValueError) as error:
        check_workdir(tmp_path, other)
    for text in ("model.width: 128 -> 64", "model.gating: True -> False", "data.codec: 'mu_law'"):
        assert text in str(error.value)
    assert "remat" not in str(error.value)


def test_a_bucket_must_be_mounted():
    with pytest.raises(ValueError, match=r"gs:/bucket/run is not a path .* mount the bucket"):
        check_workdir(pathlib.Path("gs://bucket/run"), Experiment())


def test_recipe_and_execution_may_change(tmp_path):
    write_experiment(tmp_path, Experiment())
    other = Experiment(
        model=dataclasses.replace(Experiment().model, platform="cpu", remat=True),
        data=dataclasses.replace(Experiment().data, data_dir="elsewhere"),
        train=dataclasses.replace(Experiment().train, learning_rate=1e-3),
    )
    changes = check_workdir(tmp_path, other)
    assert read_experiment(tmp_path) == Experiment()  # Checking writes nothing.
    write_experiment(tmp_path, other)
    assert "train.learning_rate: 0.002 -> 0.001" in changes
    assert len(changes) == 4
    assert read_experiment(tmp_path) == other


def test_classifier_may_change_its_recipe_but_not_what_it_is(tmp_path):
    experiment = ClassifierExperiment()
    write_experiment(tmp_path, experiment)
    other = dataclasses.replace(
        experiment,
        data=dataclasses.replace(experiment.data, data_dir="a", noise_dir="b"),
        train=dataclasses.replace(experiment.train, num_epochs=80),
    )
    assert len(check_workdir(tmp_path, other)) == 3
    augment = dataclasses.replace(experiment.augment, max_shift=2)
    with pytest.raises(ValueError, match=r"augment\.max_shift: 8 -> 2"):
        check_workdir(tmp_path, dataclasses.replace(other, augment=augment))


def test_evaluation_needs_the_same_model_and_codec_only(tmp_path):
    write_experiment(tmp_path, Experiment())
    model, data = Experiment().model, Experiment().data
    other = dataclasses.replace(data, name="sc09", seq_len=160_000, normalize=False)
    faster = dataclasses.replace(model, scan="sequential", remat=True)
    check_evaluation(tmp_path, Experiment(model=faster, data=other))
    with pytest.raises(ValueError, match="--config is of another model") as error:
        check_evaluation(
            tmp_path,
            Experiment(
                model=dataclasses.replace(model, width=64, remat=True),
                data=dataclasses.replace(other, codec="linear"),
            ),
        )
    for text in ("model.width: 128 -> 64", "data.codec: 'mu_law' -> 'linear'"):
        assert text in str(error.value)
    for text in ("remat", "seq_len", "normalize"):
        assert text not in str(error.value)


def test_no_run_in_workdir(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run: .*config.json is missing"):
        read_experiment(tmp_path)
