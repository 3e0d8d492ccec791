"""The binaries as a user runs them: processes that are killed, stopped, misused."""

import csv
import json
import random
import re
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from poolformer_jax.data.source import open_splits
from tests.launch.processes import TINY_MODEL, finish, start, start_pod

STEPS = 60
TINY = [
    "--config=configs/digits.py",
    "--config.data.name=digits_tiny",
    "--config.data.seq_len=640",
    "--config.data.train_len=320",
    *TINY_MODEL,
    "--config.model.dropout=0.1",
    f"--config.train.num_steps={STEPS}",
    "--config.train.batch_size=4",
    "--config.train.log_every=1",
    "--config.train.eval_every=25",
    "--config.train.checkpoint_every=10",
    "--config.train.eval_batch_size=8",
]


def train(workdir, tiny_config, *arguments):
    return start(
        "train", *TINY, f"--workdir={workdir}", f"--data_dir={tiny_config.data_dir}", *arguments
    )


def wait_for_step(process, step):
    for line in process.stdout:
        match = re.match(r"step +(\d+)/", line)
        if match and int(match.group(1)) >= step:
            return
    raise AssertionError(f"ended before step {step}: {process.stderr.read()}")


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(r["kind"], r["step"], r["bits_per_sample"], r.get("grad_norm")) for r in rows]


def final_parameters(workdir):
    """Every array of the last checkpoint, as Orbax stores it."""
    arrays = {}
    for item in ("params", "ema_params", "optimizer"):
        path = (workdir / "checkpoints" / str(STEPS) / item).absolute()
        tree = ocp.StandardCheckpointer().restore(path)
        leaves = jax.tree.leaves(tree)
        arrays |= {f"{item}/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    return arrays


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_config):
    workdir = tmp_path_factory.mktemp("finished")
    code, out, err = finish(train(workdir, tiny_config))
    assert code == 0, err
    return workdir, out


def test_workdir_tells_what_was_run(finished):
    workdir, out = finished
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["width"] == 8 and config["train"]["num_steps"] == STEPS
    environment = json.loads((workdir / "environment.json").read_text())
    assert set(environment["versions"]) >= {"jax", "flax", "optax", "orbax-checkpoint"}
    assert re.match(r"[0-9a-f]{40}|unknown", environment["git_commit"])
    assert "80 training and 20 validation clips" in out
    validation = [row for row in losses(workdir) if row[0] == "validation"]
    assert [row[1] for row in validation] == [0, 25, 50, 60]
    assert validation[0][2] > validation[-1][2]


def test_killed_run_resumes_bit_for_bit(finished, tmp_path, tiny_config):
    step, delay = random.randint(1, STEPS - 5), random.uniform(0.0, 0.05)
    print(f"killing at step {step} + {delay:.3f} s")  # Shown when the test fails.
    process = train(tmp_path, tiny_config)
    wait_for_step(process, step)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    code, out, err = finish(train(tmp_path, tiny_config))
    assert code == 0, err
    if step > 25:  # Saving is asynchronous: earlier there may be no checkpoint yet.
        assert "resuming from the checkpoint of step" in out
    assert losses(tmp_path) == losses(finished[0])
    expected, found = final_parameters(finished[0]), final_parameters(tmp_path)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_resume(tmp_path, tiny_config):
    process = train(tmp_path, tiny_config)
    wait_for_step(process, 13)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 0, err
    stopped = re.search(r"stopped at step (\d+), checkpoint saved; to resume, .*launch.train", out)
    assert stopped, out
    assert (tmp_path / "checkpoints" / stopped.group(1)).is_dir()


@pytest.mark.slow
def test_two_processes_train_like_one_stop_together_and_resume_as_one(
    finished, tmp_path, tiny_config
):
    flags = [*TINY, f"--workdir={tmp_path}", f"--data_dir={tiny_config.data_dir}"]
    pod = start_pod("train", 2, *flags, "--config.train.num_steps=1000000")
    try:
        wait_for_step(pod[0], 30)
        pod[1].send_signal(signal.SIGTERM)  # To one of them.
        outputs = [finish(process) for process in pod]
    finally:
        for process in pod:
            process.kill()
    assert [code for code, _, _ in outputs] == [0, 0], [err for _, _, err in outputs]
    steps = [re.search(r"stopped at step (\d+)", out).group(1) for _, out, _ in outputs]
    assert steps[0] == steps[1]
    assert (tmp_path / "checkpoints" / steps[0]).is_dir()

    alone = {row[:2]: row[2] for row in losses(finished[0])}
    together = {row[:2]: row[2] for row in losses(tmp_path)}
    common = sorted(alone.keys() & together.keys())
    assert ("train", 30) in common and ("validation", 25) in common
    # The same batches and masks; sums over devices in another order, amplified over 30 steps.
    for key in common[:30]:
        assert together[key] == pytest.approx(alone[key], rel=1e-5), key

    last = int(steps[0]) + 3
    code, out, err = finish(train(tmp_path, tiny_config, f"--config.train.num_steps={last}"))
    assert code == 0, err
    assert f"resuming from the checkpoint of step {steps[0]}" in out
    assert ("train", last) in {row[:2] for row in losses(tmp_path)}


@pytest.mark.slow
def test_divergence_is_one_clear_error(tmp_path, tiny_config):
    flags = ["--config.train.skip_norm=1e-9", "--config.train.max_consecutive_skips=3"]
    code, _, err = finish(train(tmp_path, tiny_config, *flags))
    assert code == 1
    assert "error: the last 3 steps up to step 3 were skipped" in err
    assert "Traceback" not in err


def evaluate(workdir, *arguments, variant="_step60"):
    """What the files of an evaluation of the validation split say."""
    code, out, err = finish(
        start("eval_likelihood", f"--workdir={workdir}", "--split=validation", *arguments)
    )
    assert code == 0, err
    result = json.loads((workdir / f"likelihood_validation{variant}.json").read_text())
    with open(workdir / f"likelihood_validation{variant}.csv", newline="") as file:
        clips = list(csv.DictReader(file))
    assert f"{result['bits_per_sample']:.4f} bits per sample" in out
    return result, clips


def test_evaluation_counts_every_sample_once(finished, tiny_config):
    source = open_splits(tiny_config)["validation"]
    results = []
    for flags in (["--batch_size=7"], ["--batch_size=20", "--chunk_length=160", "--length=0.04s"]):
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
def test_any_step_and_weights_and_configuration_can_be_evaluated(finished):
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
def test_two_processes_evaluate_like_one(finished):
    flags = [f"--workdir={finished[0]}", "--split=validation", "--step=latest", "--batch_size=6"]
    alone, clips = evaluate(finished[0], *flags)
    pod = start_pod("eval_likelihood", 2, *flags)
    outputs = [finish(process) for process in pod]
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
        pytest.param(["--step=newest"], "step 'newest' is neither .*best", marks=pytest.mark.slow),
        pytest.param(["--chunk_length=18"], "chunk length 18 .* 16 or 20", marks=pytest.mark.slow),
    ],
)
def test_mistakes_in_an_evaluation_are_named(finished, flags, message):
    code, _, err = finish(start("eval_likelihood", f"--workdir={finished[0]}", *flags))
    assert code == 1
    assert re.search(message, err), err
    assert err.startswith("error: ") and "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/nope.py"], "configs/nope.py is not a file; known here: configs/bee"),
        (["--config.train.batchsize=8"], 'Did you mean "batch_size" instead of "batchsize"'),
        (["--config.train.batch_size=abc"], "--config.train.batch_size=abc: invalid literal"),
        (["--config.train.batch_size=0"], "config.train: batch_size 0 must be at least 1"),
        (["--config.model.norm=batch"], "norm is 'batch'; it must be 'layer_norm' or 'rms_norm'"),
        (["--config.model.pool_factors=(2.5,)"], "pool_factors is .*; it must be a tuple of int"),
        (["--config.model.width=33"], "width 33 must be even"),
        (["--config.data.seq_len=642"], "642 is not a positive multiple of .* 4; pad to 644"),
        (["--workdir=/proc/none/here"], "cannot write to --workdir=/proc/none/here"),
        (["--wrokdir=x"], "wrokdir"),
        (["oops"], r"unknown arguments \['oops'\]"),
    ],
)
def test_mistakes_end_early_in_one_line(tmp_path, tiny_config, flags, message):
    begin = time.monotonic()
    code, _, err = finish(train(tmp_path, tiny_config, *flags))
    seconds = time.monotonic() - begin
    assert code == 1
    assert re.search(message, err), err
    assert err.startswith("error: ") and "Traceback" not in err
    assert seconds < 5
    assert not (tmp_path / "checkpoints").exists()


def test_batch_that_does_not_split_over_devices(tmp_path, tiny_config):
    process = start(
        "train",
        *TINY,
        f"--workdir={tmp_path}",
        f"--data_dir={tiny_config.data_dir}",
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )
    code, _, err = finish(process)
    assert code == 1
    assert "error: train.batch_size 4 does not split over 8 devices" in err


def test_another_model_in_the_same_workdir(finished, tiny_config):
    process = train(
        finished[0], tiny_config, "--config.model.width=16", "--config.model.gating=false"
    )
    code, _, err = finish(process)
    assert code == 1
    assert "model.width: 8 -> 16" in err and "model.gating: True -> False" in err


@pytest.mark.parametrize("binary", ["eval_likelihood", "sample"])
def test_no_run_in_workdir(tmp_path, binary):
    code, _, err = finish(start(binary, f"--workdir={tmp_path}"))
    assert code == 1
    assert "holds no run" in err and "launch.train" in err
