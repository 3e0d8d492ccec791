"""Runs of several sizes, from their files to a study."""

import json

import pytest

from poolformer_jax import experiment as ex
from poolformer_jax.files import write_json
from tests.experiment.scaled_runs import COUNT, STEPS, make_run


@pytest.fixture
def ladder(tmp_path):
    """Four runs on 20 N^-0.25, named by their widths; the largest first."""
    return [
        make_run(tmp_path, width, 20 * (100 * width**2) ** -0.25) for width in (256, 64, 16, 128)
    ]


def test_points_are_what_the_files_say(ladder):
    study = ex.read_scaling(ladder)
    assert [run.name for run in study.runs] == ["w16", "w64", "w128", "w256"]
    point = study.runs[0].point
    experiment = ex.read_experiment(ladder[2])
    assert point == {
        "parameters": 25_600,
        "samples": STEPS * COUNT,
        # Forward and backward; padding is computed too.
        "flops": round(3 * experiment.model.flops_per_sample * STEPS * 2 * 1920),
        "chips": 4,
        "chip_hours": pytest.approx(4 * (10 * 9.0 + 10 * 18.0) / 3600),
        "step": STEPS,
        "bits_per_sample": pytest.approx(20 * 25_600**-0.25),
    }
    assert study.runs[0].chip_hours[0] == pytest.approx(4 * 10 * 9.0 / 3600)
    assert not study.notes


def test_the_law_of_the_ladder(ladder):
    study = ex.read_scaling(ladder)
    law = study.laws["parameters"]
    assert law.exponent == pytest.approx(0.25, rel=0.0025) and law.floor_interval is None
    assert study.without_law == {
        "samples": "the runs have 1 different value, and a law needs 3",
        "chips": "chips change how long a training takes, not what it learns",
        "chip_hours": "the runs have 1 different value, and a law needs 3",
    }
    assert "parameters: L = " in study.text and "N^-0.25, exponent 0.2" in study.text
    values = json.loads(json.dumps(study.values, allow_nan=False))
    assert values["laws"]["parameters"]["exponent"] == law.exponent
    assert [run["parameters"] for run in values["runs"]] == [25_600, 409_600, 1_638_400, 6_553_600]


def test_the_best_validation_counts_and_the_last_is_told(ladder):
    path = ladder[0] / "metrics.jsonl"
    record = {"kind": "validation", "step": 30, "bits_per_sample": 7.0}
    path.write_text(path.read_text() + json.dumps(record) + "\n")
    study = ex.read_scaling(ladder)
    assert study.runs[-1].point["step"] == 20
    told = "The best validation of w256 is that of step 20; that of step 30 is 7.000."
    assert told in study.notes


def test_what_a_log_does_not_tell_is_told(tmp_path, ladder):
    older = make_run(tmp_path / "older", 32, 3.0, counted=False, train={"num_steps": 40})
    (older / "metrics.jsonl").write_text(
        (older / "metrics.jsonl").read_text().replace("seconds_per_step", "seconds")
    )
    study = ex.read_scaling([*ladder, older])
    assert study.runs[1].point["samples"] == STEPS * 2 * 1920
    assert study.without_law["chip_hours"] == "the logs of some runs do not tell it"
    assert study.notes == [
        "The samples of w32 include padding: its log does not tell their number.",
        "Not finished, steps: w32 20 of 40.",
        "The runs differ in parameters and in samples (6e+04 to 7.68e+04): a law of either is of "
        "both together.",
    ]


def test_runs_without_validation_are_left_out_and_two_sizes_have_no_law(tmp_path, ladder):
    diverged = make_run(tmp_path, 512, None)
    study = ex.read_scaling([*ladder[:2], diverged])
    assert [run.name for run in study.runs] == ["w64", "w256"]
    assert study.notes == ["w512 is left out: it has no finite validation after its first step."]
    assert not study.laws
    assert study.without_law["flops"] == "the runs have 2 different values, and a law needs 3"
    with pytest.raises(ex.UserError, match="nothing to report: w512 is left out: it has no finite"):
        ex.read_scaling([diverged])


def test_models_that_differ_in_more_than_size_are_named(tmp_path, ladder):
    other = make_run(tmp_path, 32, 3.0, model={"gating": False, "remat": "none"})
    assert (
        "The models differ in more than their size: model.gating."
        in ex.read_scaling([*ladder, other]).notes
    )


def test_runs_of_one_name_are_told_apart(tmp_path, ladder):
    again = make_run(tmp_path / "again", 16, 3.0)
    assert {run.name for run in ex.read_scaling([*ladder, again]).runs} >= {
        str(again),
        str(ladder[2]),
    }


def test_mistakes_are_named(tmp_path, ladder):
    linear = make_run(tmp_path, 32, 3.0, data={"codec": "linear"})
    damaged = make_run(tmp_path, 24, 3.0)
    write_json(damaged / "environment.json", {"num_parameters": 3})
    unlogged = make_run(tmp_path, 40, 3.0)
    (unlogged / "metrics.jsonl").unlink()
    for workdirs, message in (
        ([], "no run to report; name the workdirs"),
        ([tmp_path / "no"], "no holds no run: .*config.json is missing; train one with"),
        ([*ladder, tmp_path / "w16" / ".." / "w16"], "w16 is named twice"),
        ([*ladder, linear], r"data.codec is 'mu_law' \(w256\), .*'linear' \(w32\); report them ap"),
        ([damaged], "environment.json has num_devices None, not a number from 1"),
        ([unlogged], "metrics.jsonl does not exist; it is written by"),
        ([""], "workdir '' must be a path"),
    ):
        with pytest.raises(ex.UserError, match=message):
            ex.read_scaling(workdirs)
