"""Scripts for TPU slices: what they would run, and what a worker does when they run it."""

import pathlib
import re
import shlex
import shutil
import subprocess
import time

import pytest
import yaml

from launch import train
from poolformer_jax import experiment as ex

PODS = pathlib.Path(__file__).parents[2] / "launch" / "pods"
SLICE = ["--name=sc09", "--zone=us-west4-a"]
FLAGS = ["--config=sc09", "--workdir=/mnt/shared/a b", "--config.data.name=it's"]

# Runs on this machine what it is told to run on workers.
GCLOUD = """#!/usr/bin/env bash
for word in "$@"; do
  [[ $word != --command=* ]] || { cd "$HOME"; bash -c "${word#--command=}"; exit; }
done
echo READY
"""

# Trains until SIGTERM, or fails at once.
PYTHON = """#!/usr/bin/env bash
printf '%s|' "$@"; echo
[[ "$*" != *--fail* ]] || exit 1
trap 'echo saved; exit 143' TERM
while true; do sleep 0.05; done
"""


def tpu_vm(*arguments, **environment):
    return subprocess.run(
        ["bash", str(PODS / "tpu_vm.sh"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": "/tmp"} | environment,
    )


def planned(*arguments):
    """The commands that would be run, as words."""
    result = tpu_vm(*arguments, "--dry_run")
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


def on_all(command, *place):
    return [*place, f"--command=bash poolformer_jax/launch/pods/worker.sh {command}", SLICE[1]]


VM = ["gcloud", "compute", "tpus", "tpu-vm"]
QUEUE = ["gcloud", "compute", "tpus", "queued-resources"]
SSH = [*VM, "ssh", "sc09", "--worker=all"]
SSH_QUEUE = [*QUEUE, "ssh", "sc09", "--worker=all", "--node=all"]
V5E = "--accelerator-type=v5litepod-16"


@pytest.mark.parametrize(
    ("command", "options", "expected"),
    [
        (
            "create",
            ["--accelerator=v5litepod-16"],
            [[*VM, "create", "sc09", V5E, "--version=v2-alpha-tpuv5-lite", SLICE[1]]],
        ),
        (
            "create",
            ["--accelerator=v5p-32", "--version=other", "--spot", "--project=p"],
            [
                [*VM, "create", "sc09", "--accelerator-type=v5p-32", "--version=other", "--spot"]
                + [SLICE[1], "--project=p"]
            ],
        ),
        (
            "create",
            ["--accelerator=v5litepod-16", "--queued", "--valid_until=6h"],
            [
                [*QUEUE, "create", "sc09", V5E, "--runtime-version=v2-alpha-tpuv5-lite"]
                + ["--node-id=sc09", "--valid-until-duration=6h", SLICE[1]]
            ],
        ),
        (
            "create",
            ["--accelerator=v6e-16", "--slices=2"],
            [
                [*QUEUE, "create", "sc09", "--accelerator-type=v6e-16"]
                + ["--runtime-version=v2-alpha-tpuv6e", "--node-count=2", "--node-prefix=sc09"]
                + [SLICE[1]]
            ],
        ),
        (
            "status",
            [],
            [
                [*VM, "describe", "sc09", "--format=value(state)", SLICE[1]],
                on_all("status", *SSH),
            ],
        ),
        (
            "status",
            ["--queued"],
            [
                [*QUEUE, "describe", "sc09", "--format=value(state.state)", SLICE[1]],
                on_all("status", *SSH_QUEUE),
            ],
        ),
        ("logs", [], [on_all("log 50", *VM, "ssh", "sc09", "--worker=0")]),
        ("logs", ["--worker=3", "--lines=9"], [on_all("log 9", *VM, "ssh", "sc09", "--worker=3")]),
        ("stop", [], [on_all("stop", *SSH)]),
        ("stop", ["--slices=2"], [on_all("stop", *SSH_QUEUE)]),
        ("delete", [], [[*VM, "delete", "sc09", "--quiet", SLICE[1]]]),
        ("delete", ["--queued"], [[*QUEUE, "delete", "sc09", "--quiet", "--force", SLICE[1]]]),
    ],
)
def test_dry_run_prints_the_commands(command, options, expected):
    assert planned(command, *SLICE, *options) == expected


def test_dry_run_of_what_is_copied_and_started():
    archive, copy, install = planned("install", *SLICE)
    assert archive[:2] == ["git", "-C"] and archive[3:] == [
        *["archive", "--format=tar.gz", "--prefix=poolformer_jax/"],
        *["--output=/tmp/poolformer_jax.tar.gz", "HEAD"],
    ]
    assert copy == [*VM, "scp", "/tmp/poolformer_jax.tar.gz", "sc09:", "--worker=all", SLICE[1]]
    unpack = "rm -rf poolformer_jax && tar -xzf poolformer_jax.tar.gz && "
    script = "bash poolformer_jax/launch/pods/worker.sh install"
    assert install == [*SSH, f"--command={unpack}{script}", SLICE[1]]

    result = tpu_vm("train", *SLICE, "--dry_run", "--", *FLAGS)
    (*start, command, zone) = shlex.split(result.stdout)
    assert (start, zone) == (SSH, SLICE[1])
    script = ["bash", "poolformer_jax/launch/pods/worker.sh", "start"]
    assert shlex.split(command.removeprefix("--command=")) == [*script, *FLAGS]

    result = tpu_vm("run", *SLICE, "--dry_run", "--", "df -h | tail -n 1")
    assert shlex.split(result.stdout) == [*SSH, "--command=df -h | tail -n 1", SLICE[1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launch", *SLICE], "no command 'launch'"),
        (["status", "--name=Sc09", SLICE[1]], "--name='Sc09' must be lower-case letters"),
        (["status", SLICE[1]], "--name='' must be"),
        (["status", SLICE[0]], "--zone='' must be a zone such as us-west4-a"),
        (["status", SLICE[0], "--zone=us-west4"], "--zone='us-west4' must be a zone"),
        (["create", *SLICE], "--accelerator is missing, such as"),
        (["create", *SLICE, "--accelerator=a100"], "--accelerator=a100 is not known here"),
        (["create", *SLICE, "--accelerator=v4-8", "--slices=0"], "--slices='0' must be a number"),
        (["create", *SLICE, "--valid_until=6h"], "--valid_until needs --queued"),
        (["logs", *SLICE, "--worker=all"], "--worker='all' must be a number from 0"),
        (["logs", *SLICE, "--lines=x"], "--lines='x' must be a number from 1"),
        (["stop", *SLICE, "--force"], "'--force' is no option of stop; flags of launch.train"),
        (["stop", *SLICE, "--", "now"], "stop takes nothing after --"),
        (["run", *SLICE], "the command to run is missing after --"),
        (["train", *SLICE], "--config=... of launch.train is missing after --"),
        (["train", *SLICE, "--", "--config=sc09"], "--workdir=... of launch.train is missing"),
    ],
)
def test_mistakes_are_told_before_anything_is_run(arguments, message):
    if "--" in arguments:
        arguments.insert(1, "--dry_run")
    else:
        arguments.append("--dry_run")
    result = tpu_vm(*arguments)
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith(f"error: {message}"), result.stderr


def test_help_and_a_machine_without_gcloud(tmp_path):
    assert tpu_vm("--help").stdout.startswith("Usage: launch/pods/tpu_vm.sh COMMAND")
    assert tpu_vm().returncode == 2
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    result = tpu_vm("status", *SLICE, PATH=str(tmp_path))
    assert result.returncode == 2 and "gcloud is not installed" in result.stderr


@pytest.fixture
def slice_here(tmp_path):
    """Calls tpu_vm.sh with a `gcloud` whose only worker is this machine."""
    (tmp_path / "poolformer_jax").symlink_to(PODS.parents[1])
    for path, content in (("bin/gcloud", GCLOUD), ("poolformer_venv/bin/python", PYTHON)):
        path = tmp_path / path
        path.parent.mkdir(parents=True)
        path.write_text(content)
        path.chmod(0o755)

    def call(command, *arguments):
        path = f"{tmp_path}/bin:/usr/local/bin:/usr/bin:/bin"
        return tpu_vm(command, *SLICE, *arguments, HOME=str(tmp_path), PATH=path)

    yield call
    call("stop")


def test_worker_trains_detached_is_stopped_and_tells_how_it_ended(slice_here):
    assert "nothing was started" in slice_here("status").stderr
    result = slice_here("train", "--", *FLAGS)
    assert re.search(r": started, pid \d+; log: ", result.stdout), result.stderr
    again = slice_here("train", "--", *FLAGS)
    assert again.returncode == 1 and "a training runs already, pid" in again.stderr
    status = slice_here("status")
    assert status.returncode == 0 and re.search(r"READY\n\S+: running, pid \d+: ", status.stdout)
    words = ["-m", "launch.train", "--distributed", *FLAGS]
    assert slice_here("logs").stdout == "|".join([*words, "\n"])
    stopped = slice_here("stop")
    assert stopped.returncode == 0
    assert re.search(r": ended with exit status 143: saved\n", stopped.stdout)
    assert slice_here("status").returncode == 1


def test_worker_whose_training_fails_or_is_killed_tells_so(slice_here, tmp_path):
    slice_here("train", "--", *FLAGS, "--fail")
    deadline = time.monotonic() + 20
    while not (tmp_path / "poolformer_run" / "status").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    status = slice_here("status")
    assert status.returncode == 1 and ": ended with exit status 1: " in status.stdout
    (tmp_path / "poolformer_run" / "status").unlink()  # As when the machine is gone meanwhile.
    status = slice_here("status")
    assert status.returncode == 1 and "it was killed, or the machine was" in status.stderr


def test_worker_installs_python_and_the_packages(slice_here, tmp_path):
    for path in ("bin/python3", ".local/bin/uv"):
        path = tmp_path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/usr/bin/env bash\necho "{path.name} $*"\n')
        path.chmod(0o755)
    (tmp_path / "poolformer_venv" / "bin" / "python").unlink()
    command = "bash poolformer_jax/launch/pods/worker.sh install"
    assert slice_here("run", "--", command).stdout.splitlines()[:3] == [
        "python3 -m pip install --quiet --user uv",
        f"uv venv --quiet --python=3.12 {tmp_path}/poolformer_venv",
        f"uv pip install --quiet --python={tmp_path}/poolformer_venv/bin/python --editable "
        f"{tmp_path}/poolformer_jax[tpu,gcs]",
    ]


def test_jobset_is_one_that_trains():
    jobset = yaml.safe_load((PODS / "jobset.yaml").read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    (job,) = jobset["spec"]["replicatedJobs"]
    machines = job["template"]["spec"]
    pod = machines["template"]["spec"]
    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    (container,) = pod["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    rows, columns = map(int, topology.split("x"))
    assert machines["parallelism"] == machines["completions"] == rows * columns // chips
    assert (machines["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"] and volume["persistentVolumeClaim"]
    python, m, module, *flags = container["command"]
    assert (python, m, module) == ("python", "-m", "launch.train")
    parsed = {flag.removeprefix("--").partition("=")[0]: flag for flag in flags}
    assert parsed.keys() <= set(train._FLAGS) and "distributed" in parsed
    assert parsed["workdir"].startswith(f"--workdir={mount['mountPath']}/")
    assert ex.named_config(parsed["config"].partition("=")[2]).model.platform == "tpu"
