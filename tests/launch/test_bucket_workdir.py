"""A run whose workdir is in a bucket: the real clients, against a bucket on this machine."""

import json
import re
import signal
import threading

import numpy as np
import pytest

from poolformer_jax.files import read_json
from tests.bucket_server import Server, variables
from tests.faults.test_lost_processes import assert_same_run
from tests.launch.processes import call, finish, start, start_pod
from tests.launch.runs import STEPS, losses, train_flags

pytestmark = pytest.mark.nightly

WORKDIR = "gs://bucket/runs/digits"


@pytest.fixture(scope="module")
def bucket():
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def trained(bucket, tiny_config):
    """A run that nobody else could write to, that was killed, and that went on to its end."""
    environment = variables(bucket.port)
    flags = train_flags(WORKDIR, tiny_config)
    process = start("train", *flags, **environment)
    assert any(re.match(r"step +35/", line) for line in process.stdout)
    process.send_signal(signal.SIGSTOP)
    intruder = finish(start("train", *flags, **environment))
    assert intruder[0] == 1 and f"--workdir={WORKDIR} is in use" in intruder[2], intruder
    process.kill()
    finish(process)
    code, out, err = finish(start("train", *flags, **environment))
    assert code == 0, err
    assert re.search(rf"resuming from the checkpoint of step [23][05] in {WORKDIR}\n", out), out
    return environment


def test_a_killed_run_ends_as_one_on_a_disk(trained, bucket, finished, tmp_path):
    assert_same_run(bucket.download("runs/digits", tmp_path), finished[0])


def test_a_run_is_evaluated_sampled_and_reported(trained, bucket, finished, tmp_path):
    flags = ["--length=0.01s", "--num_samples=2"]
    for binary, arguments in {"eval_likelihood": [], "sample": flags, "report": []}.items():
        out = [f"--out={tmp_path}"] if arguments else []
        code, _, err = finish(start(binary, f"--workdir={WORKDIR}", *arguments, *out, **trained))
        assert code == 0, err
        call(binary, f"--workdir={finished[0]}", *arguments)
    content, _ = bucket.objects["runs/digits/likelihood_test.json"]
    assert json.loads(content) == read_json(finished[0] / "likelihood_test.json")
    drawn = [folder / "sample_00001.wav" for folder in (tmp_path, finished[0] / "samples")]
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    assert bucket.objects["runs/digits/report.html"][0].startswith(b"<!DOCTYPE html>")


def test_clips_need_a_folder(trained):
    code, _, err = finish(start("sample", f"--workdir={WORKDIR}", "--length=0.01s", **trained))
    assert code == 1 and "clips are not written into a bucket; name a folder as --out" in err


def test_a_run_is_begun_again(trained, bucket, tiny_config):
    flags = train_flags(WORKDIR, tiny_config, "--restart", "--config.train.num_steps=2")
    code, out, err = finish(start("train", *flags, **trained))
    assert code == 0, err
    kept = "runs/digits/before_restart"
    assert f"the run until now is in {WORKDIR}/before_restart" in out
    assert f"{kept}/checkpoints/{STEPS}/params/_METADATA" in bucket.objects
    assert not [n for n in bucket.objects if n.startswith(f"runs/digits/checkpoints/{STEPS}/")]


def test_two_processes_share_a_workdir(bucket, tiny_config, finished, tmp_path):
    workdir = "gs://bucket/runs/pod"
    rarely = [f"--config.train.{name}_every={STEPS}" for name in ("eval", "checkpoint")]
    flags = train_flags(workdir, tiny_config, "--config.mesh.fsdp=8", *rarely)
    pod = start_pod("train", 2, *flags, devices=4, variables=variables(bucket.port))
    for code, out, err in map(finish, pod):
        assert code == 0, (out, err)
    found, wanted = losses(bucket.download("runs/pod", tmp_path)), losses(finished[0])
    wanted = [row for row in wanted if row[0] == "train" or row[1] in (0, STEPS)]
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    np.testing.assert_allclose([r[2] for r in found], [r[2] for r in wanted], rtol=1e-6)
    # Split parameters are read as they were trained, on eight devices of one process.
    result = call("eval_likelihood", f"--workdir={tmp_path}", "--split=validation")
    np.testing.assert_allclose(result["bits_per_sample"], found[-1][2], rtol=1e-6)
    assert call("sample", f"--workdir={tmp_path}", "--length=0.01s", "--num_samples=2").is_dir()
