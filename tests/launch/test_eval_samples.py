"""launch.eval_samples as a user runs it."""

import json
import re

import pytest

from poolformer_jax.audio.wav import write_wav
from poolformer_jax.classifier.files import save_classifier
from poolformer_jax.data.builders.features import DIGIT_WORDS
from poolformer_jax.experiment.experiment import make_experiment
from poolformer_jax.experiment.sections import write_experiment
from tests.classifier.random_classifier import saved_classifier
from tests.evals.scores.recordings import draw, tone
from tests.launch.processes import finish, start

SC09 = "--reference=sc09:train"
TINY = "--reference=digits_tiny:train"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers") / "digits"
    save_classifier(folder, saved_classifier(class_names=DIGIT_WORDS))
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tiny_config):
    """A run on tiny digits, with eight clips."""
    path = tmp_path_factory.mktemp("runs") / "run"
    path.mkdir()
    experiment = make_experiment(
        {"data": {"name": "digits_tiny", "data_dir": str(tiny_config.data_dir)}}
    )
    write_experiment(path, experiment)
    draw(path / "samples", 8)
    return path


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    return tmp_path_factory.mktemp("references")


def evaluate(classifier, references, *flags, **environment):
    known = [f"--classifier={classifier}", f"--reference_dir={references}", "--batch_size=16"]
    return finish(start("eval_samples", *known, *flags, **environment))


def scores_of(result):
    return {scored["name"]: scored["metrics"] for scored in result["sets"]}


@pytest.fixture(scope="module")
def scored(workdir, classifier, references):
    """What the binary printed, and its JSON file."""
    flags = [f"--workdir={workdir}", "--bootstrap=2", "--baselines=test,train"]
    code, out, err = evaluate(classifier, references, *flags)
    assert code == 0, err
    return out, json.loads((workdir / "samples" / "metrics" / "metrics.json").read_text())


def test_run_is_scored_beside_real_clips(scored, workdir):
    out, result = scored
    metrics = scores_of(result)
    assert list(metrics) == ["samples", "samples_filtered", "real_test", "real_train"]
    assert [scores["num_clips"] for scores in metrics.values()] == [8, 2, 20, 8]
    assert {scores["num_reference"] for scores in metrics.values()} == {80}
    assert result["reference"]["data"] == "digits_tiny" and result["drawn_with"] == {"seed": 0}
    # Tones are no words, and train clips are a part of the reference.
    assert metrics["real_train"]["fid"]["value"] < metrics["samples"]["fid"]["value"]
    assert re.search(r"^generated +8 .*±", out, re.MULTILINE)
    assert re.search(r"^real, test +20 ", out, re.MULTILINE)
    assert "WARNING: FID is biased: generated has 8 clips, fewer than 2,048" in out
    assert "WARNING: FID is biased: generated, filtered 0.40–0.95 has 2 clips" in out
    assert "WARNING: the sets differ in number of clips (generated: 8; " in out
    assert "80 clips of digits_tiny:train" in out
    assert (workdir / "samples" / "metrics" / "index.html").read_text().count("<audio") == 6


@pytest.mark.slow
def test_plain_folder_and_two_devices_give_the_same_scores(
    scored, workdir, classifier, references, tiny_config, tmp_path
):
    (kept,) = references.glob("*.npz")
    written = kept.stat().st_mtime_ns
    for path in (workdir / "samples").glob("*.wav"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    flags = [f"--samples={tmp_path}", TINY, f"--data_dir={tiny_config.data_dir}"]
    flags += ["--bootstrap=0", "--baselines=round_trip,noise", f"--out={tmp_path / 'out'}"]
    two_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    code, _, err = evaluate(classifier, references, *flags, **two_devices)
    assert code == 0, err
    assert kept.stat().st_mtime_ns == written and len(list(references.iterdir())) == 1
    again = scores_of(json.loads((tmp_path / "out" / "metrics.json").read_text()))
    assert list(again) == ["samples", "round_trip", "noise"]
    expected = scores_of(scored[1])["samples"]
    for name, score in again["samples"].items():
        if isinstance(score, dict):
            # Two programs: features agree to float32's digits, of which the distance loses some.
            assert score["value"] == pytest.approx(expected[name]["value"], rel=1e-3), name


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory, classifier):
    """Folders by name, with what is wrong in them."""
    root = tmp_path_factory.mktemp("mistakes")
    for name in ("empty", "good", "slow", "stereo"):
        (root / name).mkdir()
    for clip in ("a.wav", "b.wav"):
        write_wav(root / "good" / clip, tone(1), 16_000)
        write_wav(root / "slow" / clip, tone(1), 8_000)
    save_classifier(root / "other", saved_classifier(class_names=("yes", "no")))
    return root


# What it says before it loads jax, and while it reads clips.
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples={root}/good"], r"--reference is missing: name a data set and a split"),
        (["--samples={root}/slow", TINY], r"a.wav has 1 channel at 8000 Hz, .*pass --resample"),
    ],
    ids=["flags", "rate"],
)
def test_mistakes_end_in_one_line(classifier, references, mistakes, tiny_config, flags, message):
    check_mistake(classifier, references, mistakes, tiny_config, flags, message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([SC09], r"give --samples=FOLDER_OF_WAVS, or the --workdir"),
        (["--workdir={root}"], r"samples does not exist; draw clips with: .*launch.sample --work"),
        (["--samples={root}/good", "--reference=sc09"], r"sc09 is not a data set and a split"),
        (["--samples={root}/good", "--reference=mnist:train"], r"unknown data set name 'mnist'"),
        (["--samples={root}/good", SC09], r"'sc09' is not ready .*launch.prepare_data"),
        (["--samples={root}/good", TINY, "--bootstrap=1"], r"one resample has no spread"),
        (["--samples={root}/good", TINY, "--baselines=x"], r"unknown baseline 'x'; known: test"),
        (["--samples={root}/good", TINY, "--classifier={root}/other"], r"classes \(yes, no\) are"),
        (["--samples={root}/empty", TINY], r"empty holds no WAV file"),
        (["--samples={root}/none", TINY], r"none is not a folder"),
        (["--samples={root}/good", TINY, "--classifier={root}"], r"launch.train_classifier or"),
        (["--samples={root}/good", TINY, "--num_cells=99"], r"too few for 99 cells"),
    ],
)
def test_other_mistakes_end_in_one_line(
    classifier, references, mistakes, tiny_config, flags, message
):
    check_mistake(classifier, references, mistakes, tiny_config, flags, message)


def check_mistake(classifier, references, mistakes, tiny_config, flags, message):
    flags = [flag.format(root=mistakes) for flag in flags]
    flags.append(f"--data_dir={tiny_config.data_dir}")
    code, _, err = evaluate(classifier, references, *flags)
    line = err.strip().splitlines()[-1]  # Behind a progress bar.
    assert code == 1 and line.startswith("error: ") and re.search(message, line), err
    assert "Traceback" not in err
