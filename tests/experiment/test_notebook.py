"""The functions of `experiment` as a notebook calls them."""

import json
import pathlib
import re
import shutil
import sys
import types

import jax
import numpy as np
import pytest

from poolformer_jax import experiment as ex
from poolformer_jax.classifier.files import save_classifier
from poolformer_jax.data.builders.features import DIGIT_WORDS
from poolformer_jax.experiment import notebook
from poolformer_jax.files import write_json, write_whole
from tests.classifier.random_classifier import saved_classifier
from tests.experiment.test_workdir import OLD_LAYOUT
from tests.launch.workdirs import TINY_MODEL

TRAIN = {"num_steps": 2, "batch_size": 8, "log_every": 1, "eval_every": 2, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_config):
    data = {"name": "digits_tiny", "seq_len": 320, "train_len": None}
    experiment = ex.replace(
        ex.make_experiment(ex.named_config("digits")),
        model=TINY_MODEL,
        data=data | {"data_dir": tiny_config.data_dir},
        train=TRAIN,
    )
    workdir = tmp_path_factory.mktemp("notebook") / "run"
    assert ex.train(experiment, str(workdir)).finished
    return experiment, str(workdir)


def test_train_evaluate_restore_draw_and_plot(run):
    experiment, workdir = run
    result = ex.evaluate_likelihood(workdir)
    assert result["split"] == "test" and result["num_clips"] == 20
    assert 6 < result["bits_per_sample"] < 11
    params, step = ex.restore_params(workdir)
    assert step == 2
    for name in (2, "2", "latest"):
        assert ex.restore_params(workdir, step=name)[1] == 2
    clips = ex.draw_clips(experiment, params, 8, length=480)
    assert clips.shape == (8, 480) and clips.dtype == np.int16 and clips.std() > 0
    # A clip depends neither on those beside it nor on the devices.
    np.testing.assert_array_equal(ex.draw_clips(experiment, params, 3, length=480), clips[:3])
    figure = ex.plot_loss(workdir)
    assert "bits per sample" in figure.axes[0].get_ylabel()


def test_an_exported_run_is_read_as_a_run(run, tmp_path):
    experiment, workdir = run
    folder = ex.export(workdir, tmp_path / "model")
    assert ex.read_experiment(folder) == ex.replace(experiment, data={"data_dir": None})
    (exported, step), (params, _) = (ex.restore_params(path) for path in (folder, workdir))
    assert step == 2
    halves = jax.tree.map(lambda x: np.asarray(x).astype(np.float16).astype(np.float32), params)
    jax.tree.map(np.testing.assert_array_equal, exported, halves)
    data = {"data_dir": experiment.data.data_dir}  # The exported folder does not tell.
    bits = [ex.evaluate_likelihood(path, **data)["bits_per_sample"] for path in (folder, workdir)]
    assert bits[0] == pytest.approx(bits[1], abs=1e-3)

    for options in ({"weights": "raw"}, {"step": 1}):
        with pytest.raises(ex.UserError, match="the averaged weights of step 2 alone"):
            ex.restore_params(folder, **options)
    with pytest.raises(ex.UserError, match="without what training needs to go on"):
        ex.train(experiment, folder)
    with pytest.raises(ex.UserError, match="holds a run; choose another folder"):
        ex.export(folder, workdir)
    arrays = bytearray((folder / "parameters.npz").read_bytes())
    arrays[len(arrays) // 2] ^= 1
    (folder / "parameters.npz").write_bytes(arrays)
    with pytest.raises(ex.UserError, match=r"parameters\.npz is damaged, .* SHA-256 differs"):
        ex.restore_params(folder)


@pytest.mark.slow
def test_a_run_starts_from_an_exported_model(run, tmp_path):
    experiment, trained = run
    folder = str(ex.export(trained, tmp_path / "model"))
    (exported, _), workdir = ex.restore_params(folder), tmp_path / "run"
    # Without a change from the optimiser the first checkpoint is what training starts from.
    started = {"init_from": folder, "learning_rate": 1e-30, "weight_decay": 0.0, "ema_decay": 0.0}
    ex.train(ex.replace(experiment, train=started), workdir)
    jax.tree.map(np.testing.assert_array_equal, ex.restore_params(workdir)[0], exported)
    shutil.rmtree(folder)  # A run that goes on needs it no longer.
    ex.train(ex.replace(experiment, train=started | {"num_steps": 3}), workdir)
    jax.tree.map(np.testing.assert_array_equal, ex.restore_params(workdir)[0], exported)

    def mistake(init_from, workdir=tmp_path / "other", **model):
        other = ex.replace(experiment, model=model, train={"init_from": str(init_from)})
        with pytest.raises(ex.UserError) as error:
            ex.train(other, workdir)
        return str(error.value)

    assert "folder that launch.export wrote" in mistake(trained)
    assert "--config.train.init_from=gs://b/m is not a path of a mounted" in mistake("gs://b/m")
    ex.export(trained, folder)
    assert "model.width: 8 -> 16\ntake its values, or train.init_from=None" in mistake(
        folder, width=16
    )
    # A run's origin is not what it is told later.
    assert "train.init_from: None -> '" in mistake(folder, workdir=trained)
    (pathlib.Path(folder) / "parameters.npz").write_bytes(b"")
    assert mistake(folder).endswith("its SHA-256 differs; copy or export it again")


@pytest.mark.slow
def test_clips_and_progress_are_shown_inline(run, tmp_path, monkeypatch, caplog):
    experiment, trained = run
    workdir = shutil.copytree(trained, tmp_path / "run")
    tone = (8_000 * np.sin(np.arange(1_600) / 5)).astype(np.int16)
    shown = ex.show_clips([tone, tone], ["a", "b & c"])._repr_html_()
    assert shown.count("<audio") == shown.count("<img") == 2 and "b &amp; c" in shown
    assert ":root" not in shown and "body {" not in shown  # The notebook keeps its own style.
    with pytest.raises(ex.UserError, match="1 names for 2 clips"):
        ex.show_clips([tone, tone], ["a"])

    (tmp_path / "page.html").write_text('<p title="é">1 &lt; 2</p>', encoding="utf-8")
    frame = ex.show_page(tmp_path / "page.html", height=80)._repr_html_()
    assert 'srcdoc="&lt;p title=&quot;é&quot;&gt;1 &amp;lt; 2&lt;/p&gt;" width' in frame
    with pytest.raises(ex.UserError, match=r"nothing\.html"):
        ex.show_page(tmp_path / "nothing.html")

    plots = []

    def display(plot, display_id=None):
        plots.append(plot)
        return types.SimpleNamespace(update=plots.append)

    module = types.SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=module))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    plot, seen = ex.LivePlot(workdir), []
    longer = ex.replace(experiment, train={"num_steps": 4})

    def on_log(step):
        seen.append(step)
        plot(step)

    ex.train(longer, workdir, on_log=on_log)
    assert seen == [4, 4] and len(plots) == 2  # The first step of a start is not reported.
    assert "<img alt='Loss" in plots[-1]._repr_html_()

    def broken(step):
        seen.append(step)
        raise RuntimeError("no plot today")

    assert ex.train(ex.replace(experiment, train={"num_steps": 6}), workdir, on_log=broken).finished
    assert seen == [4, 4, 6] and "RuntimeError: no plot today" in caplog.text


def test_a_tpu_that_is_not_used_is_an_error(tmp_path, monkeypatch):
    assert re.match(r"CPU, \d+ cores", ex.describe_devices())
    for name, kind in (("card", "0x020000"), ("disk", "0x010802"), ("chip", "0xff0000")):
        assert not notebook._has_tpu(tmp_path)
        write_whole(tmp_path / name / "vendor", "0x1ae0\n")
        write_whole(tmp_path / name / "class", f"{kind}\n")
    assert notebook._has_tpu(tmp_path)
    monkeypatch.setattr(notebook, "_has_tpu", lambda: True)
    with pytest.raises(ex.UserError, match="has a TPU, but JAX computes on the CPU"):
        ex.describe_devices()


@pytest.mark.slow
def test_draw_score_and_look_at_a_folder(run, tmp_path):
    _, workdir = run
    classifier = tmp_path / "classifier"
    save_classifier(classifier, saved_classifier(class_names=DIGIT_WORDS))
    folder = ex.sample(workdir, tmp_path / "clips", num_clips=4, draw=ex.Draw(top_k=9))
    assert folder == tmp_path / "clips" and (folder / "index.html").is_file()
    scores = [
        ex.score_samples(
            folder,
            workdir=workdir,
            classifier=classifier,
            reference_dir=tmp_path / f"references on {count}",
            baselines=["noise"],
            bootstrap=0,
            num_cells=5,
            devices=jax.devices()[:count],
        )
        for count in (8, 1)
    ]
    assert [scored.name for scored in scores[0].sets] == ["samples", "noise"]
    assert (folder / "metrics" / "index.html").is_file()
    for on_eight, on_one in zip(scores[0].sets, scores[1].sets, strict=True):
        # Two programs: features agree to float32's digits, of which the distance loses some.
        assert on_eight.metrics.fid.value == pytest.approx(on_one.metrics.fid.value, rel=1e-3)
    # A clip depends neither on those beside it nor on the devices.
    options = {"num_clips": 4, "length": 320, "draw": ex.Draw(top_k=9), "batch_size": 2}
    again = ex.sample(workdir, tmp_path / "again", **options, devices=jax.devices()[:2])
    for path in folder.glob("sample_*.wav"):
        assert (again / path.name).read_bytes() == path.read_bytes()


@pytest.mark.nightly
def test_some_of_the_devices_do(run, tmp_path):
    experiment, workdir = run
    experiment = ex.replace(experiment, train={"num_steps": 1, "batch_size": 2})
    assert ex.train(experiment, tmp_path, devices=jax.devices()[:2]).step == 1
    alone = ex.evaluate_likelihood(workdir, batch_size=5, devices=jax.devices()[:1])
    assert alone["bits_per_sample"] == pytest.approx(
        ex.evaluate_likelihood(workdir)["bits_per_sample"], abs=1e-6
    )


def test_mistakes_of_the_user_are_one_kind_of_error(run, tmp_path):
    experiment, workdir = run
    damaged = tmp_path / "damaged"
    write_whole(damaged / "config.json", "[1]")
    for call, message in (
        (lambda: ex.train(experiment, "/proc/none"), "cannot write to"),
        (lambda: ex.train(ex.replace(experiment, train={"batch_size": 3}), tmp_path), "8 devices"),
        (lambda: ex.evaluate_likelihood(tmp_path / "no"), "holds no run"),
        (lambda: ex.evaluate_likelihood(workdir, step="7"), "no checkpoint of step 7"),
        (lambda: ex.prepare_data("sc10"), "unknown data set"),
        (lambda: ex.restore_params(tmp_path / "no"), "holds no run"),
        (lambda: ex.restore_params(workdir, step=7), "no checkpoint of step 7"),
        (lambda: ex.restore_params(workdir, step="newest"), "step 'newest' is neither"),
        (lambda: ex.draw_clips(experiment, {}, 8, length=0), "length 0 must be at least 1"),
        (lambda: ex.draw_clips(experiment, {}, 8, labels=[0] * 8), "the model has no classes"),
        (lambda: ex.sample(workdir, num_clips=0), "^num_clips 0 must be at least 1"),
        (lambda: ex.draw_clips(experiment, {}, 10**10), "num_clips 10000000000 must be at most"),
        (
            lambda: ex.draw_clips(experiment, {}, 10**6, length=16_000),
            "num_clips 1000000 .* 134,",
        ),
        (lambda: ex.sample(workdir, length=10**15), "^length 1000000000000000 must be at most"),
        (lambda: ex.sample(workdir, num_clips=10**7, length=10**9), "take .* GB, and the disk of"),
        (lambda: ex.sample(workdir, ""), "^out '' must be a path"),
        (lambda: ex.evaluate_likelihood(workdir, batch_size=10**9), "^batch_size 1000000000 must"),
        (lambda: ex.evaluate_likelihood(workdir, chunk_length=7), "chunk length 7 is not a positi"),
        (lambda: ex.score_samples(samples="", classifier="x"), "^samples '' must be a path"),
        (lambda: ex.score_samples(workdir=workdir, classifier=""), "^classifier '' must be a path"),
        (lambda: ex.write_report(damaged), "config.json holds a list, .*; restore it from a copy"),
        (lambda: ex.write_report(""), "^workdir '' must be a path"),
        (lambda: ex.named_config("digitz"), "neither a file nor one of"),
        (lambda: ex.sample(workdir, batch_size=-8), "^batch_size -8 must be at least 1"),
        (lambda: ex.score_samples(workdir=workdir), "samples does not exist; draw clips with"),
        (lambda: ex.import_classifier(tmp_path / "no.pth", tmp_path / "new"), "No such file"),
        (lambda: ex.plot_loss(tmp_path / "no"), "does not exist"),
        (lambda: ex.write_report(tmp_path / "no"), "does not exist"),
    ):
        with pytest.raises(ex.UserError, match=message):
            call()


@pytest.mark.nightly
def test_run_of_the_old_layout_goes_on(run, tmp_path):
    """The arrays have not moved; config.json and progress have."""
    experiment, _ = run
    old = {**OLD_LAYOUT, "model": OLD_LAYOUT["model"] | {"complex_recurrence": True}}
    old["model"]["max_phase"] = experiment.model.mixer.max_phase
    old["data"] = OLD_LAYOUT["data"] | {"data_dir": experiment.data.data_dir}
    write_json(tmp_path / "config.json", old)
    start = ex.read_experiment(tmp_path)
    ex.train(start, tmp_path)
    write_json(tmp_path / "config.json", old)
    progress = tmp_path / "checkpoints" / "2" / "progress" / "metadata"
    bits = json.loads(progress.read_text())["progress"]["validation"]["bits_per_sample"]
    progress.write_text(json.dumps({"examples_seen": 16, "validation_bits": bits}))
    assert ex.evaluate_likelihood(tmp_path, split="validation", step="2")[
        "bits_per_sample"
    ] == pytest.approx(bits, abs=1e-6)
    outcome = ex.train(ex.replace(start, train={"num_steps": 3}), tmp_path)
    assert (outcome.step, outcome.finished) == (3, True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "validation"]
    assert steps == [0, 1, 2, 3]  # That of step 2 is known, and not repeated.


def test_names_are_found_and_no_others():
    assert {"train", "evaluate_likelihood", "draw_clips", "plot_loss"} <= set(dir(ex))
    assert all(hasattr(ex, name) for name in ex.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = ex.tarin
