"""launch.train: runs that are killed, stopped, misused."""

import json
import re
import signal

import numpy as np
import pytest

from poolformer_jax import experiment as ex
from poolformer_jax.data.errors import UnreadableClipError
from poolformer_jax.lock import release_at_end, take_lock
from poolformer_jax.training.errors import TrainingDivergedError
from poolformer_jax.training.metrics_file import read_metrics
from tests.launch.processes import call, finish, mistake, start, start_pod
from tests.launch.runs import STEPS, TINY, losses, train_flags
from tests.training.traces import steps_in


def wait_for_step(process, step):
    for line in process.stdout:
        match = re.match(r"step +(\d+)/", line)
        if match and int(match.group(1)) >= step:
            return
    raise AssertionError(f"ended before step {step}: {process.stderr.read()}")


def test_workdir_tells_what_was_run(finished):
    workdir, out = finished
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["width"] == 8 and config["train"]["num_steps"] == STEPS
    environment = json.loads((workdir / "environment.json").read_text())
    assert set(environment["versions"]) >= {"jax", "flax", "optax", "orbax-checkpoint"}
    assert re.match(r"[0-9a-f]{40}|unknown", environment["git_commit"])
    assert re.search(r"^3,376 parameters \| 80 training and 20 validation clips \| 8 cpu dev", out)
    validation = [row for row in losses(workdir) if row[0] == "validation"]
    assert [row[1] for row in validation] == [0, 25, 50, 60]
    assert validation[0][2] > validation[-1][2]


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_resume(finished, tmp_path, tiny_config):
    flags = train_flags(tmp_path, tiny_config)
    process = start("train", *flags)
    wait_for_step(process, 13)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130 and "Traceback" not in err, err
    stopped = re.search(r"stopped at step (\d+), checkpoint saved; to resume, .*launch.train", out)
    assert stopped, out
    assert (tmp_path / "checkpoints" / stopped.group(1)).is_dir()
    assert call("train", *flags).finished
    assert losses(tmp_path) == losses(finished[0])


def test_second_training_in_a_workdir_is_refused_and_readers_are_not(finished, tiny_config):
    workdir = finished[0]
    files = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    with release_at_end():
        take_lock(workdir)
        message = mistake("train", *train_flags(workdir, tiny_config))
        assert re.match(rf"error: --workdir={workdir} is in use: \S+ on \S+ \(pid \d+, s", message)
        assert ex.restore_params(workdir)[1] == STEPS
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == files


@pytest.mark.slow
def test_two_processes_train_like_one_stop_together_and_resume_on_another_mesh(
    finished, tmp_path, tiny_config, capsys
):
    flags = train_flags(tmp_path, tiny_config)
    sharded = ["--config.mesh.fsdp=4", "--config.train.num_steps=1000000"]
    sharded += ["--config.train.checkpoint_minutes=0.002"]  # By a clock that they agree on.
    pod = start_pod("train", 2, *flags, *sharded, devices=4)
    try:
        wait_for_step(pod[0], 30)
        pod[1].send_signal(signal.SIGINT)  # To one of them.
        outputs = [finish(process) for process in pod]
    finally:
        for process in pod:
            process.kill()
    assert [code for code, _, _ in outputs] == [143, 130], [err for _, _, err in outputs]
    steps = [re.search(r"stopped at step (\d+)", out).group(1) for _, out, _ in outputs]
    assert steps[0] == steps[1]
    assert (tmp_path / "checkpoints" / steps[0]).is_dir()
    rows, _ = read_metrics(tmp_path / "metrics.jsonl")
    saved = {row["step"] for row in rows if row["kind"] == "checkpoint"} - {int(steps[0])}
    assert any(step % 10 and step % 25 for step in saved)

    alone = {row[:2]: row[2] for row in losses(finished[0])}
    together = {row[:2]: row[2] for row in losses(tmp_path)}
    common = sorted(alone.keys() & together.keys())
    assert ("train", 30) in common and ("validation", 25) in common
    # The same batches and masks; sums over devices in another order, amplified over 30 steps.
    for key in common[:30]:
        assert together[key] == pytest.approx(alone[key], rel=1e-5), key

    last = int(steps[0]) + 3
    call("train", *flags, f"--config.train.num_steps={last}")
    assert f"resuming from the checkpoint of step {steps[0]}" in capsys.readouterr().out
    # It goes on with the clips that come next for all processes together: others would be off by
    # far more than the rounding.
    resumed = {row[:2]: row[2] for row in losses(tmp_path)}
    for step in range(int(steps[0]) + 1, last + 1):
        key = ("train", step)
        assert resumed[key] == pytest.approx(alone[key], rel=1e-5), key


@pytest.mark.nightly
def test_two_processes_that_split_time_train_like_one(tmp_path, tiny_config):
    """Each has half of every clip, and reads all of them."""
    few = ["--config.model.dropout=0.0", "--config.train.num_steps=6"]
    alone = train_flags(tmp_path / "alone", tiny_config, *few)
    together = train_flags(tmp_path / "together", tiny_config, *few, "--config.mesh.sequence=8")
    outputs = [finish(process) for process in start_pod("train", 2, *together, devices=4)]
    assert [code for code, _, _ in outputs] == [0, 0], [err for _, _, err in outputs]
    assert re.search(r"^3,376 parameters .* 8 cpu devices: sequence 8$", outputs[0][1], re.M)
    assert call("train", *alone).finished
    found, wanted = losses(tmp_path / "together"), losses(tmp_path / "alone")
    assert [row[:2] for row in found] == [row[:2] for row in wanted] and len(found) == 8
    np.testing.assert_allclose(
        [row[2] for row in found], [row[2] for row in wanted], rtol=1e-6
    )  # Sums in another order.


def test_only_what_is_told_loses_its_traceback(monkeypatch):
    def fail_with(error):
        def train(*_, **__):
            raise error

        monkeypatch.setattr("poolformer_jax.experiment.training.train", train)

    fail_with(TrainingDivergedError("too many steps were skipped"))
    assert mistake("train", *TINY, "--workdir=unused") == "error: too many steps were skipped"
    fail_with(UnreadableClipError("clip 3 cannot be read"))
    assert mistake("train", *TINY, "--workdir=unused") == "error: clip 3 cannot be read"
    fail_with(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        call("train", *TINY, "--workdir=unused")


@pytest.mark.slow
def test_divergence_is_one_clear_error(tmp_path, tiny_config):
    flags = ["--config.train.skip_norm=1e-9", "--config.train.max_consecutive_skips=3"]
    message = mistake("train", *train_flags(tmp_path, tiny_config, *flags))
    assert message.startswith("error: the last 3 steps up to step 3 were skipped")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.train.batch_size=0"], "config.train: batch_size 0 must be at least 1"),
        (["--config.model.norm=batch"], "norm is 'batch'; it must be 'layer_norm' or 'rms_norm'"),
        (["--config.model.pool_factors=(2.5,)"], "pool_factors is .*; it must be a tuple of int"),
        (["--config.model.width=33"], "width 33 must be even"),
        (["--config.data.seq_len=642"], "642 is not a positive multiple of 4, .*; use 640 or 644"),
        (["--workdir=/proc/none/here"], "cannot write to --workdir=/proc/none/here"),
        (["--config.train.batch_size=4"], "train.batch_size 4 does not split over 8 devices"),
        (["--config.train.eval_batch_size=9"], "train.eval_batch_size 9 does not split over 8"),
        (["--config.train.batch_size=88"], "larger than the split of 80 clips"),
        (["--data_dir=/proc/none"], "/proc/none"),
        (["--config.model.scan=fused"], "'fused' is a kernel for platform 'tpu', but platform is"),
        (["--config.model.platform=tpu"], "but JAX runs on 'cpu' here; set --config.model.platf"),
        (["--profile_steps=10"], "--profile_steps=10 must be the first and the last step, such as"),
        (["--profile_steps=-2:3"], "--profile_steps=-2:3 must be"),
        (["--profile_steps=1:3"], "--profile_steps 1:3 must be .* in 2 to train.num_steps 60; "),
        (["--profile_steps=5:4"], "--profile_steps 5:4 must be"),
        (["--profile_steps=50:61"], "--profile_steps 50:61 must be"),
    ],
)
def test_mistakes_end_early_in_one_line(tmp_path, tiny_config, flags, message):
    found = mistake("train", *train_flags(tmp_path, tiny_config, *flags))
    assert re.search(message, found) and len(found.splitlines()) == 1, found
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "config.json").exists()


def test_another_model_in_the_same_workdir(finished, tiny_config):
    flags = ["--config.model.width=16", "--config.model.gating=false"]
    message = mistake("train", *train_flags(finished[0], tiny_config, *flags))
    assert "model.width: 8 -> 16" in message and "model.gating: True -> False" in message


@pytest.mark.slow
def test_profile_of_two_steps(tmp_path, tiny_config, capsys):
    flags = ["--config.train.num_steps=4", "--profile_steps=2:3"]
    flags = train_flags(tmp_path, tiny_config, *flags)
    (tmp_path / "profile").touch()  # Somebody else's.
    assert "profile is in the way and is kept" in mistake("train", *flags)
    (tmp_path / "profile").unlink()
    assert call("train", *flags).finished
    folder = tmp_path / "profile" / "plugins" / "profile" / "steps_2_to_3"
    (trace,) = folder.glob("process_0_*.xplane.pb")
    assert f"a trace of steps 2 to 3 is in {folder}; to open it: " in capsys.readouterr().out
    assert steps_in(trace) == [2, 3]


@pytest.mark.nightly
def test_every_process_writes_its_trace(tmp_path, tiny_config):
    flags = ["--config.train.num_steps=4", "--profile_steps=3:3"]
    flags = train_flags(tmp_path, tiny_config, *flags)
    pod = start_pod("train", 2, *flags, devices=4)
    try:
        outputs = [finish(process) for process in pod]
    finally:
        for process in pod:
            process.kill()
    assert [code for code, _, _ in outputs] == [0, 0], [err for _, _, err in outputs]
    traces = sorted((tmp_path / "profile").glob("plugins/profile/steps_3_to_3/*.xplane.pb"))
    assert [path.name[:10] for path in traces] == ["process_0_", "process_1_"]
    assert [steps_in(path) for path in traces] == [[3], [3]]


@pytest.mark.slow
def test_a_start_says_what_has_changed(tmp_path, tiny_config, capsys):
    flags = ["--config.model.scan=sequential"]
    for steps in (1, 2):
        flags.append(f"--config.train.num_steps={steps}")
        call("train", *train_flags(tmp_path, tiny_config, *flags))
    out = capsys.readouterr().out
    assert "changed since the last start: train.num_steps: 1 -> 2" in out
    assert "resuming from the checkpoint of step 1" in out
    call("train", *train_flags(tmp_path, tiny_config, *flags, "--restart"))
    assert "starting again from step 0; the run until now is in" in capsys.readouterr().out
    assert [row[1] for row in losses(tmp_path) if row[0] == "train"] == [1, 2]
    assert (tmp_path / "before_restart" / "checkpoints" / "2").is_dir()
