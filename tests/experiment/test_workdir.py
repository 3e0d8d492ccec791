import dataclasses
import json
import re

import pytest

import poolformer_jax
from poolformer_jax import own_files
from poolformer_jax.experiment import (
    ClassifierExperiment,
    Experiment,
    check_workdir,
    experiment_values,
    older_runs,
    read_experiment,
    replace,
    write_experiment,
)
from poolformer_jax.experiment.older_runs import LAYOUT, stamp
from poolformer_jax.experiment.workdir import check_evaluation, set_aside_run
from poolformer_jax.files import write_json

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
    written = json.loads((workdir / "config.json").read_text())
    assert (written["version"], written["layout"]) == (poolformer_jax.__version__, LAYOUT)
    assert list(written) == ["version", "layout", "model", "data", "train", "mesh"]


def test_run_of_the_old_layout_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OLD_LAYOUT))
    experiment = read_experiment(tmp_path)
    assert experiment.model.kind == "poolformer" and experiment.model.width == 8
    mixer = experiment.model.mixer
    assert (mixer.kind, mixer.recurrent_width, mixer.num_gate_blocks) == ("rg_lru", 16, 4)
    assert (mixer.complex, mixer.max_phase, mixer.decay_exponent) == (False, 0.25, 8.0)
    assert experiment.model.remat == "half_block"
    assert experiment.data.train_len == 320 and experiment.train.ema_decay == 0.99
    # The same run goes on.
    assert check_workdir(tmp_path, experiment) == []


def test_run_of_the_first_fields_is_read(tmp_path):
    """Those that came later had, until then, the value that is their default."""
    later = {"partial", "crop", "num_classes", "label_dropout"}
    first = {
        section: {name: value for name, value in fields.items() if name not in later}
        for section, fields in OLD_LAYOUT.items()
    }
    for name, values in (("first", first), ("old", OLD_LAYOUT)):
        write_json(tmp_path / name / "config.json", values)
    assert read_experiment(tmp_path / "first") == read_experiment(tmp_path / "old")


WHOLE = stamp(experiment_values(Experiment()))
DAMAGED = {
    "a list": ("[1, 2]", "holds a list, not a JSON object; restore it from a copy"),
    "nested": ("[" * 100_000, "is not valid JSON: too long a number or too deep; restore"),
    "no UTF-8": (b'{"model": "\xff"}', "is not text in UTF-8: byte 11; restore"),
    "a long number": (f'{{"model": {"9" * 5000}}}', "is not valid JSON: too long"),
    "cut off": ('{"model": {', "is not valid JSON: .*line 1 column .*; restore it from a copy"),
    "empty": ("", "is not valid JSON"),
    "a field unknown": (
        WHOLE | {"model": {"depth": 3}},
        r"unknown field \['depth'\] .*0.1.0', c",
    ),
    "a type": (WHOLE | {"model": {"width": "wide"}}, "width is 'wide'; it must be int"),
    "a section": (WHOLE | {"data": 3}, "config.data is 3; it must be a section"),
    "an old section": ({"model": 3, "data": {}, "train": {}}, "model is 3, not a section"),
    "an old mixer": ({"model": {"max_phase": 1, "mixer": []}}, r"mixer is \[\], not a section"),
    "no section": ({"layout": 2, "model": {}}, r"it has no section \['data', 'train'\]"),
    "no layout": (WHOLE | {"layout": "x"}, "its layout is 'x', not a number"),
    "a newer layout": (
        WHOLE | {"layout": 99, "version": "7.0", "model": {"shape": 3}},
        "version '7.0' wrote it in layout 99, and this one, 0.1.0, reads layouts up to 4",
    ),
    "a classifier": (WHOLE | {"augment": {}}, "holds the run of a classifier, where that of no"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_run_that_cannot_be_read(tmp_path, fault):
    content, message = DAMAGED[fault]
    content = json.dumps(content) if isinstance(content, dict) else content
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / "config.json").write_bytes(content)
    about = {"poolformer_jax": "0.1.0", "git_commit": "abc"}
    (tmp_path / "environment.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message) as error:
        read_experiment(tmp_path)
    said = str(error.value)
    assert "new workdir" in said or "another workdir" in said
    assert str(tmp_path) in said and len(said.splitlines()) == 1 and len(said) < 1000


def test_removed_fields(tmp_path, monkeypatch, caplog):
    removed = {"model.mixer.bias": ((False, None), "mixers have none today")}
    monkeypatch.setattr(older_runs, "_REMOVED", removed)
    caplog.set_level("INFO")
    for value in (False, None):
        write_json(tmp_path / "config.json", _with_mixer(bias=value))
        assert read_experiment(tmp_path) == Experiment()
    assert "config.json has model.mixer.bias, False: ignored" in caplog.messages[0]
    write_json(tmp_path / "config.json", _with_mixer(bias=True))
    message = r"model.mixer.bias is True, a field of older versions: mixers have none today; use th"
    with pytest.raises(ValueError, match=message):
        read_experiment(tmp_path)


def _with_mixer(**fields):
    mixer = WHOLE["model"]["mixer"] | fields
    return WHOLE | {"model": WHOLE["model"] | {"mixer": mixer}}


def test_the_home_folder_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_experiment("~/run", Experiment())
    assert (tmp_path / "run" / "config.json").is_file()
    assert check_workdir("~/run", Experiment()) == [] and read_experiment("~/run") == Experiment()
    for path in ("", " ", "a\0b", "~no-such-user/run"):
        with pytest.raises(ValueError, match=r"^workdir '.*' must be a path"):
            check_workdir(path, Experiment())


def test_another_model_or_data_is_refused_and_listed(tmp_path):
    write_experiment(tmp_path, Experiment())
    other = replace(
        Experiment(),
        model={"width": 64, "gating": False, "remat": "block", "mixer": {"max_phase": 1.0}},
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


@pytest.mark.parametrize(
    "address",
    [
        "gs:/bucket/run",
        "gs://bucket",
        "s3://bucket/run",
        "gs:///run",
        "gs://b/run[1]",
        "gs://b/../run",
    ],
)
def test_addresses_that_are_none_are_named(address):
    with pytest.raises(
        ValueError, match=f"--workdir={re.escape(address)} is neither a path nor a folder in"
    ):
        check_workdir(address, Experiment())


def test_a_workdir_in_a_bucket_is_checked_like_one_on_a_disk(bucket):
    workdir = "gs://bucket/runs/a"
    assert check_workdir(workdir, Experiment()) == []
    assert not bucket.store
    write_experiment(workdir, Experiment())
    assert [*bucket.store] == ["/bucket/runs/a/config.json"]
    other = replace(Experiment(), train={"seed": 1})
    assert check_workdir(workdir, other) == ["train.seed: 0 -> 1"]
    with pytest.raises(ValueError, match=r"model.width: 128 -> 64"):
        check_workdir(workdir, replace(Experiment(), model={"width": 64}))
    bucket.down = True
    with pytest.raises(OSError, match=r"cannot write gs://bucket/runs/a .*unplugged"):
        check_workdir(workdir, Experiment())


def test_recipe_and_execution_may_change(tmp_path):
    write_experiment(tmp_path, Experiment())
    other = replace(
        Experiment(),
        model={"platform": "cpu", "remat": "block"},
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
    model = {"scan": "sequential", "remat": "block"}
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


def test_restart_sets_the_run_aside_and_nothing_else(tmp_path):
    for name in ("metrics.jsonl", "likelihood_test.json", "notes.txt"):
        (tmp_path / name).touch()
    for number in ("", "_1"):
        write_experiment(tmp_path, Experiment())
        (tmp_path / "checkpoints" / "7").mkdir(parents=True)
        wider = replace(Experiment(), model={"width": 64})
        assert check_workdir(tmp_path, wider, restart=True) == []
        set_aside_run(tmp_path)
        kept = tmp_path / f"before_restart{number}"
        assert (kept / "checkpoints" / "7").is_dir() and (kept / "config.json").is_file()
    left = {path.name for path in tmp_path.iterdir()} - {own_files.LIST_FILE}
    assert left == {"notes.txt", "before_restart", "before_restart_1"}
    set_aside_run(tmp_path)  # Nothing is there any more.
    assert not (tmp_path / "before_restart_2").exists()


@pytest.mark.parametrize("name", ["environment.json", "metrics.jsonl", "checkpoints"])
def test_files_of_others_are_no_run(tmp_path, name):
    (tmp_path / "notes.txt").touch()
    assert check_workdir(tmp_path, Experiment()) == []
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=rf"{name} is in the way and is kept"):
        check_workdir(tmp_path, Experiment())
    write_experiment(tmp_path, Experiment())  # Of a run, perhaps of a version without a list.
    assert check_workdir(tmp_path, Experiment()) == []
