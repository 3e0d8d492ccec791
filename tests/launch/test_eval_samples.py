"""launch.eval_samples: scores of a run's clips and of any folder, and mistakes."""

import contextlib
import io
import json
import re

import pytest

from poolformer_jax.audio.wav import write_wav
from poolformer_jax.classifier.files import save_classifier
from poolformer_jax.data.builders.features import DIGIT_WORDS
from poolformer_jax.experiment import make_experiment, write_experiment
from tests.classifier.random_classifier import saved_classifier
from tests.evals.scores.recordings import draw, tone
from tests.launch.processes import call, mistake

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
    data = {"name": "digits_tiny", "data_dir": str(tiny_config.data_dir)}
    write_experiment(path, make_experiment({"data": data}))
    draw(path / "samples", 8)
    return path


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    return tmp_path_factory.mktemp("references")


@pytest.fixture(scope="module")
def known(classifier, references):
    return [f"--classifier={classifier}", f"--reference_dir={references}", "--batch_size=16"]


def scores_of(result):
    return {scored["name"]: scored["metrics"] for scored in result["sets"]}


@pytest.fixture(scope="module")
def scored(workdir, known):
    """What the binary printed, and its JSON file."""
    flags = [f"--workdir={workdir}", "--bootstrap=2"]
    flags += ["--baselines=test,train,held_out_train"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        scores = call("eval_samples", *known, *flags)
    result = json.loads((workdir / "samples" / "metrics" / "metrics.json").read_text())
    assert [scored.name for scored in scores.sets] == list(scores_of(result))
    return printed.getvalue(), result


def test_run_is_scored_beside_real_clips(scored, workdir):
    out, result = scored
    metrics = scores_of(result)
    real = ["real_test", "real_train", "real_train_held_out"]
    assert list(metrics) == ["samples", "samples_filtered", *real]
    assert [scores["num_clips"] for scores in metrics.values()] == [8, 2, 20, 8, 8]
    assert [scores["num_reference"] for scores in metrics.values()] == [80, 80, 80, 80, 72]
    assert result["reference"]["data"] == "digits_tiny" and result["drawn_with"] == {"seed": 0}
    # Tones are no words, and train clips are a part of the reference.
    assert metrics["real_train"]["fid"]["value"] < metrics["samples"]["fid"]["value"]
    assert re.search(r"^generated +8 .*±", out, re.MULTILINE)
    assert re.search(r"^real, test +20 ", out, re.MULTILINE)
    assert "warning: FID is biased: generated has 8 clips, fewer than 2,048" in out
    assert "warning: FID is biased: generated, filtered 0.40–0.95 has 2 clips" in out
    assert "warning: the sets differ in number of clips (generated: 8; " in out
    assert "real, train (in the reference): these clips are compared with themselves" in out
    assert "80 clips of digits_tiny:train" in out
    # Random weights.
    accuracy = result["classifier_accuracy"]
    assert accuracy["num_clips"] == 20 and accuracy["value"] < 0.5
    assert f"The classifier is right on {accuracy['value']:.1%} of 20 real clips (digits_t" in out
    assert "warning: the classifier is right on only" in out
    assert "Not as published on SC09: the reference is digits_tiny:train, not sc09:train; " in out
    assert result["as_published"] is False and "; ".join(result["not_as_published"]) in out
    page = workdir / "samples" / "metrics" / "index.html"
    assert f"Look and listen: {page}" in out and page.read_text().count("<audio") == 6


@pytest.mark.slow
def test_plain_folder_gives_the_same_scores(
    scored, workdir, known, references, tiny_config, tmp_path
):
    (kept,) = references.glob("*.npz")
    before = kept.stat().st_mtime_ns
    for path in (workdir / "samples").glob("*.wav"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    flags = [f"--samples={tmp_path}", TINY, f"--data_dir={tiny_config.data_dir}"]
    flags += ["--bootstrap=0", "--baselines=round_trip,noise", f"--out={tmp_path / 'out'}"]
    call("eval_samples", *known, *flags)
    assert kept.stat().st_mtime_ns == before and len(list(references.glob("*.npz"))) == 1
    again = scores_of(json.loads((tmp_path / "out" / "metrics.json").read_text()))
    assert list(again) == ["samples", "round_trip", "noise"]
    expected = scores_of(scored[1])["samples"]
    for name, score in again["samples"].items():
        if isinstance(score, dict):
            assert score["value"] == expected[name]["value"], name


@pytest.mark.slow
def test_folder_is_a_reference_that_is_kept(workdir, known, tmp_path, capsys):
    real, kept = tmp_path / "real", tmp_path / "kept"
    real.mkdir()
    for clip in range(12):
        write_wav(real / f"{clip}.wav", tone(clip % 10, seed=clip), 16_000)
    flags = [f"--samples={workdir / 'samples'}", f"--reference={real}", f"--out={tmp_path / 'out'}"]
    flags += ["--bootstrap=0", "--num_cells=4", f"--reference_dir={kept}"]

    def score(*more):
        scores = call("eval_samples", *known, *flags, *more)
        return scores, capsys.readouterr()

    scores, (out, err) = score()
    assert [scored.name for scored in scores.sets] == ["samples", "samples_filtered"]
    assert "reference: 100%" in err and f"Compared with 12 clips of {real}" in out
    assert "warning: the classifier's accuracy on real clips is unknown" in out
    assert "warning: 12 of 12 reference clips are shorter than a second" in out
    again, (out, err) = score("--baselines=noise")
    assert "reference: 100%" not in err and "12 of 12 reference clips are shorter" in out
    assert again.sets[0].metrics == scores.sets[0].metrics
    write_wav(real / "0.wav", tone(3), 16_000)
    changed, (_, err) = score()
    assert "reference: 100%" in err and len(list(kept.iterdir())) == 2
    assert changed.sets[0].metrics.fid.value != scores.sets[0].metrics.fid.value


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """Folders by name, with what is wrong in them."""
    root = tmp_path_factory.mktemp("mistakes")
    for name in ("empty", "good", "slow"):
        (root / name).mkdir()
    for clip in ("a.wav", "b.wav"):
        write_wav(root / "good" / clip, tone(1), 16_000)
        write_wav(root / "slow" / clip, tone(1), 8_000)
    (root / "page").mkdir()
    (root / "page" / "index.html").write_text("mine")
    save_classifier(root / "other", saved_classifier(class_names=("yes", "no")))
    return root


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples={root}/good"], r"--reference is missing: name a data set and a split"),
        (["--samples={root}/slow", TINY], r"a.wav has 1 channel at 8000 Hz, .*pass --resample"),
        ([SC09], r"give --samples=FOLDER_OF_WAVS, or the --workdir"),
        (["--workdir={root}"], r"samples does not exist; draw clips with: .*launch.sample --work"),
        (["--samples={root}/good", "--reference=sc09"], r"sc09 is not a data set and a split"),
        (["--samples={root}/good", "--reference=:train"], r"unknown data set name ''"),
        (["--samples={root}/good", "--reference={root}/x"], r"x is not a data set .* no folder of"),
        (["--samples={root}/good", "--reference={root}/slow/../good"], r"folder of the generated"),
        (["--samples={root}/good", "--reference={root}/empty"], r"empty holds no WAV file"),
        (
            ["--samples={root}/good", "--reference={root}/slow", "--num_cells=2"],
            r"slow/a.wav has 1 channel at 8000 Hz, .*pass --resample",
        ),
        (["--samples={root}/good", "--reference={root}/slow"], r"too few for 50 cells"),
        (
            ["--samples={root}/good", "--reference={root}/slow", "--baselines=test"],
            r"'test' is of a data set, and the reference is none; leave it out of --baselines",
        ),
        (
            ["--samples={root}/good", "--reference=digits_tiny:test", "--baselines=held_out_train"],
            r"leaves clips out of a reference of train clips, which this one is not",
        ),
        (["--samples={root}/good", "--reference=mnist:train"], r"unknown data set name 'mnist'"),
        (["--samples={root}/good", SC09], r"'sc09' is not ready .*launch.prepare_data"),
        (["--samples={root}/good", TINY, "--bootstrap=1"], r"one resample has no spread"),
        (["--samples={root}/good", TINY, "--baselines=x"], r"unknown baseline 'x'; known: test"),
        (["--samples={root}/good", TINY, "--classifier={root}/other"], r"classes \(yes, no\) are"),
        (
            ["--samples={root}/good", TINY, "--out={root}/page"],
            r"page/index.html is in the way",
        ),
        (["--samples={root}/empty", TINY], r"empty holds no WAV file"),
        (["--samples={root}/none", TINY], r"none is not a folder"),
        (["--samples={root}/good", TINY, "--classifier={root}"], r"launch.train_classifier or"),
        (["--samples={root}/good", TINY, "--num_cells=99"], r"too few for 99 cells"),
    ],
)
def test_mistakes_end_in_one_line(known, mistakes, tiny_config, flags, message):
    flags = [flag.format(root=mistakes) for flag in flags]
    found = mistake("eval_samples", *known, *flags, f"--data_dir={tiny_config.data_dir}")
    assert re.search(message, found) and len(found.splitlines()) == 1


def test_classifier_has_to_be_named(workdir):
    message = mistake("eval_samples", f"--workdir={workdir}", "--reference=fsdd:train")
    assert "--classifier is missing, and none for fsdd comes with the package" in message
