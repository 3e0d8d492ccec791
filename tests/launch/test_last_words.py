"""What is said when one of several processes is lost, in place of XLA's page."""

import json
import re
import subprocess
import sys

import pytest

from launch import last_words
from tests.launch.processes import finish, start_pod
from tests.launch.runs import TINY

FATAL = (
    "F1123 12:32:58.405814   24119 client.h:80] Terminating process because the JAX distributed "
    "service detected fatal errors. This most likely indicates that another task died; see the "
    "other task logs for more details. absl::Status: "
)
NEW, OLD = "/xla.coordination", "/tensorflow"
UNHEALTHY = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n{}\nThe "
FACTS = {
    "coordinator": "a:99",
    "num_processes": 3,
    "process_id": 1,
    "timeout_seconds": 180,
    "checkpoints": None,
}


def pass_through(text):
    command = [sys.executable, last_words.__file__, json.dumps(FACTS)]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return result.stderr


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (UNHEALTHY.format("2"), "process 2 is lost"),
        (UNHEALTHY.format("/job:jax_worker/replica:0/task:2"), "process 2 is lost"),
        (UNHEALTHY.format("0\n2"), "processes 0 and 2 are lost"),
        (UNHEALTHY.format("1"), "this process, 1, did not answer for too long"),
        ("INTERNAL: Barrier failed: UNAVAILABLE: Task 2 heartbeat timeout.", "process 2 is lost"),
        (f"UNAVAILABLE: Failed to send RPC to the service\n\nRPC: {NEW}", "process 0 is lost"),
        (f"DEADLINE_EXCEEDED\n\nRPC: {OLD}.CoordinationService/PollForError", "process 0 is lost"),
        (
            f"DEADLINE_EXCEEDED\n\nRPC: {NEW}/RegisterTask",
            "not all of 3 .* to a:99 .* 0 to 2",
        ),
        (f"ALREADY_EXISTS: Aborted\n\nRPC: {OLD}/RegisterTask", "as this one, with --process_id=1"),
        ("INTERNAL: something new", r"another process is lost: .*\(.*INTERNAL: something new\)"),
    ],
)
def test_what_xla_means(status, message):
    lines = last_words.explain(FATAL + status, FACTS).splitlines()
    assert re.search(f"^error: .*{message}", lines[0]) and len(lines) <= 2


def test_collectives_that_a_lost_process_left_unequally_far():
    text = "terminate called after throwing an instance of 'gloo::E'\n  what():  [enforce] 8 vs 4\n"
    assert "another process is lost: " in last_words.explain(text, FACTS)
    assert last_words.explain(text, FACTS).splitlines()[0].count("([enforce] 8 vs 4)") == 1
    assert pass_through(text) == last_words.explain(text, FACTS) + "\n"
    assert "process 0 is lost" in last_words.explain(text, FACTS | {"num_processes": 2})


def test_the_last_checkpoint_is_named(tmp_path):
    facts = FACTS | {"checkpoints": str(tmp_path)}
    text = FATAL + UNHEALTHY.format("2")
    assert f"there is no checkpoint yet in {tmp_path}" in last_words.explain(text, facts)
    for name in ("9", "10", "11.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    assert "\nthe last checkpoint is of step 10 in" in last_words.explain(text, facts)


def test_only_xlas_page_is_replaced():
    warning = "W1123 12:32:51.1 25138 preemption_sync_manager.cc:147] Failed to retrieve a notice\n"
    other = "E1123 12:32:52.2 25138 slow_operation.cc:73] Compilation is slow\n"
    page = f"{warning}{FATAL}{UNHEALTHY.format('2')}tasks\n*** Check failure stack trace: ***"
    assert pass_through(f"words\n{other}{page}\n  @ 0x7fa647220634 absl::\n") == (
        f"words\n{other}{last_words.explain(page, FACTS)}\n"
    )
    assert pass_through(f"words\n{warning}no newline") == f"words\n{warning}no newline"


@pytest.mark.slow
def test_processes_that_differ_stop_before_they_compile(tmp_path, tiny_config):
    one, other = tmp_path / "one", tmp_path / "other"
    differing = [
        [f"--workdir={one}", "--config.train.learning_rate=0.25"],
        [f"--workdir={other}", "--config.model.width=16"],
    ]
    flags = [*TINY, f"--data_dir={tiny_config.data_dir}"]
    pod = start_pod("train", 2, *flags, differing=differing)
    for code, _, err in [finish(process) for process in pod]:
        assert code == 1 and len(err.splitlines()) == 2, err
        assert err.startswith(
            f"error: the processes do not agree: workdir: {one} on process 0, ano"
        )
        assert "model.width: 8 on process 0, 16 on process 1" in err
        assert "train.learning_rate: 0.25 on process 0, " in err
    assert not list(tmp_path.glob("*/*"))
