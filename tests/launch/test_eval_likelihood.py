"""launch.eval_likelihood on a run."""

import csv
import json
import re

import numpy as np
import pytest

from poolformer_jax.data.source import open_splits
from tests.launch.processes import call, finish, mistake, start_pod
from tests.launch.runs import TINY, losses
from tests.launch.workdirs import make_workdir


@pytest.fixture
def evaluate(capsys):
    """What the files of an evaluation of the validation split say."""

    def run(workdir, *arguments, variant="_step60"):
        result = call("eval_likelihood", f"--workdir={workdir}", "--split=validation", *arguments)
        path = workdir / f"likelihood_validation{variant}.json"
        assert json.loads(path.read_text()) == result
        with open(path.with_suffix(".csv"), newline="") as file:
            clips = list(csv.DictReader(file))
        out = capsys.readouterr().out
        assert f"{result['bits_per_sample']:.4f} bits per sample" in out and str(path) in out
        return result, clips

    return run


def test_evaluation_counts_every_sample_once(finished, tiny_config, evaluate):
    source = open_splits(tiny_config)["validation"]
    results = []
    for flags in (["--batch_size=8"], ["--batch_size=24", "--chunk_length=160", "--length=0.04s"]):
        result, clips = evaluate(finished[0], "--step=latest", *flags)
        assert [clip["name"] for clip in clips] == [x["name"].decode() for x in source]
        assert [int(clip["label"]) for clip in clips] == [x["label"] for x in source]
        assert [int(clip["num_samples"]) for clip in clips] == [
            min(640, len(x["audio"])) for x in source
        ]
        bits = [int(clip["num_samples"]) * float(clip["bits_per_sample"]) for clip in clips]
        # Float64, and divided and multiplied once.
        assert sum(bits) == pytest.approx(result["bits_per_sample"] * result["num_samples"])
        assert result["num_clips"] == 20
        assert result["num_samples"] == sum(result["curve"]["num_samples"])
        interval = result["confidence_interval"]
        assert interval["low"] < result["bits_per_sample"] < interval["high"]
        results.append(result)
    assert [result["chunk_length"] for result in results] == [320, 160]
    # The same model as the trainer evaluated; other batches and chunks, so other rounding.
    last = [row for row in losses(finished[0]) if row[0] == "validation"][-1][2]
    for result in results:
        assert result["bits_per_sample"] == pytest.approx(last, abs=1e-6)


@pytest.mark.slow
def test_any_step_and_weights_and_configuration_can_be_evaluated(finished, evaluate):
    steps = sorted(int(path.name) for path in (finished[0] / "checkpoints").iterdir())
    step = f"--step={steps[0]}"
    average, _ = evaluate(finished[0], step, variant=f"_step{steps[0]}")
    raw, _ = evaluate(finished[0], step, "--weights=raw", variant=f"_raw_step{steps[0]}")
    assert (average["step"], average["weights"]) == (steps[0], "ema")
    assert (raw["step"], raw["weights"]) == (steps[0], "raw")
    assert raw["bits_per_sample"] != average["bits_per_sample"]
    flags = [*TINY, "--config.data.seq_len=16000", "--config.model.scan=associative"]
    data_dir = json.loads((finished[0] / "config.json").read_text())["data"]["data_dir"]
    flags += [f"--data_dir={data_dir}", step]
    longer, clips = evaluate(finished[0], *flags, variant=f"_step{steps[0]}_1s")
    assert longer["length"] == 16_000 and longer["chunk_length"] == 320
    assert longer["num_samples"] > 20 * 640
    assert longer["curve"]["edges"][-1] == max(int(clip["num_samples"]) for clip in clips)
    # At positions that both reach, these are the same samples, but for the shared last bin.
    shared = slice(0, len(average["curve"]["edges"]) - 2)
    np.testing.assert_allclose(
        longer["curve"]["bits_per_sample"][shared],
        average["curve"]["bits_per_sample"][shared],
        rtol=1e-5,
    )


@pytest.mark.slow
def test_two_processes_evaluate_like_one(finished, evaluate):
    flags = ["--step=latest", "--batch_size=8"]
    alone, clips = evaluate(finished[0], *flags)
    flags += [f"--workdir={finished[0]}", "--split=validation"]
    outputs = [finish(process) for process in start_pod("eval_likelihood", 2, *flags, devices=4)]
    assert [code for code, _, _ in outputs] == [0, 0], [err for _, _, err in outputs]
    assert ["bits per sample" in out for _, out, _ in outputs] == [True, False]
    together = json.loads((finished[0] / "likelihood_validation_step60.json").read_text())
    with open(finished[0] / "likelihood_validation_step60.csv", newline="") as file:
        shared = list(csv.DictReader(file))
    assert [clip["name"] for clip in shared] == [clip["name"] for clip in clips]
    for mine, theirs in zip(shared, clips, strict=True):
        assert mine["num_samples"] == theirs["num_samples"]
        assert float(mine["bits_per_sample"]) == pytest.approx(
            float(theirs["bits_per_sample"]), abs=1e-6
        )
    assert together["bits_per_sample"] == pytest.approx(alone["bits_per_sample"], abs=1e-6)
    assert together["curve"]["num_samples"] == alone["curve"]["num_samples"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--step=7"], r"no checkpoint of step 7 in .*; complete ones: \[.*60\]"),
        (["--length=ten"], "--length=ten is no duration; write seconds as 1.5s"),
        ([*TINY, "--config.model.gating=false"], "of another model .*\n.*gating: True -> False"),
        (["--step=newest"], "step 'newest' is neither .*best"),
        (["--chunk_length=18"], "chunk length 18 .*; use 16 or 20"),
        (["--batch_size=7"], "7 does not split over 8 devices; use a multiple of 8"),
        (["--split=dev"], "split.*train.*validation.*test"),
    ],
)
def test_mistakes_are_named(finished, flags, message):
    assert re.search(message, mistake("eval_likelihood", f"--workdir={finished[0]}", *flags))


@pytest.mark.parametrize("name", ["likelihood_train.csv", "likelihood_train.json"])
def test_files_of_others_are_named_before_anything_is_evaluated(finished, name):
    (finished[0] / name).write_text('{"split": "mine"}')
    message = mistake("eval_likelihood", f"--workdir={finished[0]}", "--split=train")
    assert f"{name} is in the way and is kept" in message
    (finished[0] / name).unlink()


def test_bits_that_are_not_finite_end_in_one_line(tmp_path, tiny_config):
    data = {"name": "digits_tiny", "seq_len": 320, "data_dir": tiny_config.data_dir}
    workdir = make_workdir(tmp_path / "run", broken=True, data=data)
    message = mistake("eval_likelihood", f"--workdir={workdir}", "--batch_size=8")
    assert re.match(r"error: step 0: the bits of clip .* are not finite", message)
    assert not list(workdir.glob("likelihood_*"))


@pytest.mark.parametrize("binary", ["eval_likelihood", "report"])
def test_no_run_in_workdir(tmp_path, binary):
    message = mistake(binary, f"--workdir={tmp_path}")
    assert re.search("(config.json|metrics.jsonl) .*launch.train", message)


def test_report_is_written(finished, capsys):
    call("report", f"--workdir={finished[0]}")
    page = finished[0] / "report.html"
    assert f"Wrote {page}" in capsys.readouterr().out and page.stat().st_size > 1000
