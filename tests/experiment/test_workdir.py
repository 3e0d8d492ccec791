import dataclasses
import json
import pathlib

import pytest

from poolformer_jax.experiment import (
    ClassifierExperiment,
    Experiment,
    check_workdir,
    read_experiment,
    replace,
    write_experiment,
)
from poolformer_jax.experiment.workdir import check_evaluation

# What version 0.1 wrote: no kinds, and the mixer's fields among the model's.
OLD_LAYOUT = {
    "model": {
        "num_codes": 256,
        "initial_code": 128,
        "width": 8,
        "width_growth": 1,
        "recurrent_width": 16,
        "num_gate_blocks": 4,
        "mlp_expansion": 2,
        "pool_factors": [4],
        "layers": [0, 1],
        "pool_groups": None,
        "unet": True,
        "skip": "short",
        "embedding": "sinusoidal",
        "norm": "layer_norm",
        "gating": True,
        "temporal_convolution": False,
        "complex_recurrence": False,
        "decay_exponent": 8.0,
        "max_phase": 0.25,
        "dropout": 0.0,
        "num_classes": 0,
        "dtype": "float32",
        "scan": "auto",
        "platform": "cpu",
        "remat": True,
    },
    "data": {
        "name": "digits_tiny",
        "partial": False,
        "codec": "mu_law",
        "normalize": True,
        "seq_len": 640,
        "train_len": 320,
        "crop": "start",
        "data_dir": "/somewhere",
        "seed": 0,
        "build_seed": 0,
    },
    "train": {
        "seed": 0,
        "num_steps": 2,
        "batch_size": 8,
        "grad_accum_steps": 1,
        "learning_rate": 0.005,
        "warmup_steps": 50,
        "beta1": 0.9,
        "beta2": 0.999,
        "weight_decay": 0.0001,
        "clip_norm": 200.0,
        "skip_norm": 1000.0,
        "max_consecutive_skips": 50,
        "ema_decay": 0.99,
        "label_dropout": 0.0,
        "log_every": 1,
        "eval_every": 1,
        "eval_batch_size": 8,
        "checkpoint_every": 1,
    },
}


def test_round_trip(tmp_path):
    experiment = replace(Experiment(), model={"dropout": 0.1}, data={"data_dir": "somewhere"})
    workdir = tmp_path / "new" / "run"
    assert check_workdir(workdir, experiment) == []
    write_experiment(workdir, experiment)
    assert read_experiment(workdir) == experiment
    assert json.loads((workdir / "config.json").read_text())["model"]["layers"]


def test_run_of_the_old_layout_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OLD_LAYOUT))
    experiment = read_experiment(tmp_path)
    assert experiment.model.kind == "poolformer" and experiment.model.width == 8
    mixer = experiment.model.mixer
    assert (mixer.kind, mixer.recurrent_width, mixer.num_gate_blocks) == ("rg_lru", 16, 4)
    assert (mixer.complex, mixer.max_phase, mixer.decay_exponent) == (False, 0.25, 8.0)
    assert experiment.data.train_len == 320 and experiment.train.ema_decay == 0.99
    # The same run goes on.
    assert check_workdir(tmp_path, experiment) == []


def test_run_that_cannot_be_read_any_more(tmp_path):
    (tmp_path / "config.json").write_text('{"model": {"depth": 3}}')
    with pytest.raises(ValueError, match=r"config.json is damaged or of another version: .*new wo"):
        read_experiment(tmp_path)


def test_another_model_or_data_is_refused_and_listed(tmp_path):
    write_experiment(tmp_path, Experiment())
    other = replace(
        Experiment(),
        model={"width": 64, "gating": False, "remat": True, "mixer": {"max_phase": 1.0}},
        data={"codec": "linear"},
    )
    with pytest.raises(ValueError) as error:
        check_workdir(tmp_path, other)
    for text in (
        "model.width: 128 -> 64",
        "model.gating: True -> False",
        "model.mixer.max_phase: 0.314",
        "data.codec: 'mu_law'",
    ):
        assert text in str(error.value)
    assert "remat" not in str(error.value)


def test_a_bucket_must_be_mounted():
    with pytest.raises(ValueError, match=r"gs:/bucket/run is not a path .* mount the bucket"):
        check_workdir(pathlib.Path("gs://bucket/run"), Experiment())


def test_recipe_and_execution_may_change(tmp_path):
    write_experiment(tmp_path, Experiment())
    other = replace(
        Experiment(),
        model={"platform": "cpu", "remat": True},
        data={"data_dir": "elsewhere"},
        train={"learning_rate": 1e-3},
    )
    changes = check_workdir(tmp_path, other)
    assert read_experiment(tmp_path) == Experiment()  # Checking writes nothing.
    write_experiment(tmp_path, other)
    assert "train.learning_rate: 0.002 -> 0.001" in changes
    assert len(changes) == 4
    assert read_experiment(tmp_path) == other


def test_classifier_may_change_its_recipe_but_not_what_it_is(tmp_path):
    write_experiment(tmp_path, ClassifierExperiment())
    other = replace(
        ClassifierExperiment(),
        data={"data_dir": "a", "noise_dir": "b"},
        train={"num_steps": 80},
    )
    assert len(check_workdir(tmp_path, other)) == 3
    augment = dataclasses.replace(other.augment, max_shift=2)
    with pytest.raises(ValueError, match=r"augment\.max_shift: 8 -> 2"):
        check_workdir(tmp_path, dataclasses.replace(other, augment=augment))


def test_evaluation_needs_the_same_model_and_codec_only(tmp_path):
    write_experiment(tmp_path, Experiment())
    data = {"name": "sc09", "seq_len": 160_000, "normalize": False}
    model = {"scan": "sequential", "remat": True}
    check_evaluation(tmp_path, replace(Experiment(), model=model, data=data))
    with pytest.raises(ValueError, match="--config is of another model") as error:
        check_evaluation(
            tmp_path,
            replace(Experiment(), model=model | {"width": 64}, data=data | {"codec": "linear"}),
        )
    for text in ("model.width: 128 -> 64", "data.codec: 'mu_law' -> 'linear'"):
        assert text in str(error.value)
    for text in ("remat", "seq_len", "normalize"):
        assert text not in str(error.value)


def test_no_run_in_workdir(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run: .*config.json is missing"):
        read_experiment(tmp_path)


@pytest.mark.parametrize("name", ["environment.json", "metrics.jsonl", "checkpoints"])
def test_files_of_others_are_no_run(tmp_path, name):
    (tmp_path / "notes.txt").touch()
    assert check_workdir(tmp_path, Experiment()) == []
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=rf"{name} is in the way and is kept"):
        check_workdir(tmp_path, Experiment())
    write_experiment(tmp_path, Experiment())  # Of a run, perhaps of a version without a list.
    assert check_workdir(tmp_path, Experiment()) == []
