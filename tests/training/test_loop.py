import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import re
import resource
import shutil
import signal
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.disk_full import DiskFullError
from poolformer_jax.evals.likelihood.evaluator import make_likelihood_evaluator
from poolformer_jax.lock import LockedError
from poolformer_jax.training.checkpoint import Checkpointer, Progress
from poolformer_jax.training.errors import TrainingDivergedError, TrainingError
from poolformer_jax.training.loop import train
from poolformer_jax.training.metrics import MetricWriter, progress_line
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.trainer import Outcome, Trainer
from tests.training.tiny import TRAIN, Unigram, make_batch, make_objective


class NoisyUnigram(Unigram):
    """Learns, and depends on the key of dropout."""

    def init_params(self, key):
        return {"logits": jnp.zeros(16)}

    def log_probs(self, params, codes, state, *, dropout_key=None):
        noise = jax.random.bernoulli(dropout_key, 0.7, (16,))
        return jax.nn.log_softmax(params["logits"] * noise)[codes], state


OBJECTIVE = make_objective(NoisyUnigram())
MESH = sharding.make_mesh(devices=jax.devices()[:1])


def run(
    workdir, *, train_config=TRAIN, on_batch=None, on_eval=None, bits=None, evaluate=None, **options
):
    """Trains; `on_batch(first example of a step)` and `on_eval(evaluations)` may interfere."""
    evaluations = []

    def batches(start_example):
        for first in range(start_example, 10**6, TRAIN.batch_size):
            yield make_batch(first)

    def moving(params, should_stop):
        moved = float(np.abs(params["logits"]).sum())
        evaluations.append(moved)
        if on_eval is not None:
            on_eval(len(evaluations))
        if should_stop():
            return None
        # By default better and better, and the same for the same parameters in a resumed run.
        score = bits[len(evaluations) - 1] if bits else 4.0 - moved
        return {"bits_per_sample": score, "num_samples": 1}

    trainer = Trainer(
        make_objective(NoisyUnigram(), evaluate or moving),
        train_config,
        mesh=MESH,
        batches=batches,
        workdir=workdir,
        **options,
    )
    if on_batch is not None:
        take_step = trainer.train_step

        def train_step(state, batch):
            on_batch(trainer.progress.examples_seen)
            return take_step(state, batch)

        trainer.train_step = train_step
    return train(trainer), evaluations


def records(workdir, kind="train"):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    timing = ("seconds_per_step", "clips_per_second", "samples_per_second")
    return [
        {name: value for name, value in row.items() if name not in timing}
        for row in rows
        if row["kind"] == kind
    ]


def final_arrays(workdir):
    init = functools.partial(init_train_state, OBJECTIVE, TRAIN)
    checkpointer = Checkpointer(workdir / "checkpoints", OBJECTIVE.rank)
    state, progress = checkpointer.restore(sharding.abstract_state(MESH, init))
    checkpointer.close()
    return (int(state.step), progress), [np.asarray(x) for x in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    outcome, evaluations = run(workdir)
    return workdir, outcome, evaluations


def test_run_evaluates_saves_and_writes(whole):
    workdir, outcome, evaluations = whole
    assert (outcome.step, outcome.finished) == (6, True)
    assert [r["step"] for r in records(workdir)] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records(workdir, "validation")] == [0, 3, 6]
    assert len(set(evaluations)) == 3  # The average moves.
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert steps == [4, 6]  # The latest two; the best is the last.
    noted = [r["step"] for r in records(workdir, "checkpoint")]
    assert noted == sorted(set(noted)) and noted[-1] == 6
    assert list((workdir / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(
    "stop_at", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 4, 5))]
)
def test_resumed_run_is_the_uninterrupted_run(whole, tmp_path, stop_at):
    def on_batch(first):
        if first == 8 * (stop_at - 1):
            os.kill(os.getpid(), signal.SIGTERM)

    outcome, _ = run(tmp_path, on_batch=on_batch)
    assert (outcome.step, outcome.finished) == (stop_at, False)
    outcome, _ = run(tmp_path)
    assert outcome.finished
    assert records(tmp_path) == records(whole[0])
    position, arrays = final_arrays(tmp_path)
    expected_position, expected = final_arrays(whole[0])
    assert position[0] == expected_position[0] == 6
    assert position[1] == expected_position[1]
    for a, b in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(a, b)  # Bit for bit.


def test_signal_during_evaluation_saves_and_evaluates_on_resume(tmp_path, caplog):
    def on_eval(count):
        if count == 2:  # At step 3.
            os.kill(os.getpid(), signal.SIGTERM)

    outcome, _ = run(tmp_path, on_eval=on_eval, bits=[math.nan, 4.0])
    assert (outcome.step, outcome.finished) == (3, False)
    assert [r["step"] for r in records(tmp_path, "validation")] == [0]
    run(tmp_path, bits=[1.0, math.nan])
    assert re.search(r"the last validation \(nan bits.*is worse than the first \(1\.0", caplog.text)
    assert [r["step"] for r in records(tmp_path, "validation")] == [0, 3, 6]
    checkpointer = Checkpointer(tmp_path / "checkpoints", OBJECTIVE.rank)
    assert checkpointer.best_step == 3  # Saved before it was evaluated, and best all the same.
    checkpointer.close()
    (_, progress), _ = final_arrays(tmp_path)
    assert progress.best["bits_per_sample"] == 1.0  # Not the first, which was not a number.


@pytest.mark.slow
def test_crash_before_the_first_checkpoint_leaves_no_trace(tmp_path):
    def on_batch(first):
        if first == 8:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        run(tmp_path, on_batch=on_batch)
    assert [r["step"] for r in records(tmp_path, "validation")] == [0]
    run(tmp_path)
    assert [r["step"] for r in records(tmp_path, "validation")] == [0, 3, 6]
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_full_disk_leaves_the_last_checkpoint_from_which_the_run_goes_on(whole, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_batch(first):
        if first == 8 * 3:  # After the checkpoint of step 3 has begun.
            while not (tmp_path / "checkpoints" / "3").is_dir():
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))  # Bytes of a file.

    message = (
        rf"^the disk of {tmp_path} is full \([\d.,]+ MB free\); the last checkpoint, of step 3 in "
        rf"{tmp_path}/checkpoints, is intact: make room, and run the same command again$"
    )
    try:
        with pytest.raises(DiskFullError, match=message):
            run(tmp_path, on_batch=on_batch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    outcome, _ = run(tmp_path)
    assert outcome.finished
    assert records(tmp_path) == records(whole[0])
    for a, b in zip(final_arrays(tmp_path)[1], final_arrays(whole[0])[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_run_whose_workdir_another_has_taken_writes_nothing_more(tmp_path):
    evaluations = []

    def check_workdir():
        if evaluations:  # It took so long.
            raise LockedError("taken over")

    with pytest.raises(LockedError, match="taken over"):
        run(tmp_path, check_workdir=check_workdir, on_eval=evaluations.append)
    assert not records(tmp_path, "validation") and not list((tmp_path / "checkpoints").iterdir())


def test_finished_run_has_nothing_to_do(whole, caplog):
    before = records(whole[0]), records(whole[0], "validation")
    with caplog.at_level("INFO"):
        outcome, evaluations = run(whole[0])
    assert outcome.finished and not evaluations
    assert "raise train.num_steps" in caplog.text
    assert (records(whole[0]), records(whole[0], "validation")) == before


@pytest.mark.slow
def test_finished_run_can_be_extended(tmp_path):
    run(tmp_path, train_config=dataclasses.replace(TRAIN, num_steps=3))
    outcome, _ = run(tmp_path)
    assert outcome.step == 6
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_lost_checkpoints_do_not_cut_the_log(whole, tmp_path):
    workdir = shutil.copytree(whole[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints")
    log = (workdir / "metrics.jsonl").read_bytes()
    with pytest.raises(TrainingError, match=r"a checkpoint of step 6, but .*--restart"):
        run(workdir)
    # A log of a version that did not note checkpoints.
    lines = [line for line in log.splitlines(keepends=True) if b"checkpoint" not in line]
    (workdir / "metrics.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(TrainingError, match=r"a checkpoint of step 6, but"):
        run(workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == b"".join(lines)


def test_an_older_checkpoint_than_the_log_tells_of(tmp_path, caplog):
    def open_log(step):
        MetricWriter(tmp_path, start_step=step, validated=False, enabled=False).close()

    records = [("validation", 3), ("checkpoint", 3), ("checkpoint", 6)]
    lines = [json.dumps({"kind": kind, "step": step}) + "\n" for kind, step in records]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    open_log(6)
    assert not caplog.text
    open_log(3)
    assert "tells of a checkpoint of step 6, which is not in" in caplog.text
    (tmp_path / "metrics.jsonl").unlink()
    open_log(3)
    assert "the log begins after step 3" in caplog.text
    # Killed while it was saving for the first time.
    (tmp_path / "metrics.jsonl").write_text(lines[0])
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    open_log(None)


@pytest.mark.parametrize(
    ("skipped", "message"), [(5, "all 3 steps since step 3"), (4, "2 of 3 steps were")]
)
def test_a_run_that_skipped_most_steps_says_so_at_its_end(skipped, message, caplog):
    finished = types.SimpleNamespace(
        config=TRAIN,
        step=6,
        outcome=Outcome(6, finished=True),
        state=types.SimpleNamespace(skipped_steps=np.asarray(skipped)),
        skipped_before=(2, 3),  # Resumed at step 3.
        progress=Progress(),
        warn=logging.getLogger().warning,
    )
    with contextlib.ExitStack() as stack:
        if skipped == 5:
            stack.enter_context(pytest.raises(TrainingDivergedError, match=message))
        assert Trainer.conclude(finished).finished
        assert message in caplog.text


def test_records_after_the_checkpoint_are_replaced(tmp_path, caplog):
    writer = MetricWriter(tmp_path, start_step=0, validated=False)
    for step in (1, 2, 3):
        writer.write("train", step, {"bits_per_sample": float(step) if step > 1 else math.nan})
    writer.write("validation", 2, {"bits_per_sample": 2.0})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        # Damaged by something else; and killed while writing.
        file.write(b'{"kind": "train"}\n{"kind": "\xff", "step": 1}\n[1]\n{"kind": "train", "ste')
    before = (tmp_path / "metrics.jsonl").read_bytes()
    MetricWriter(tmp_path, start_step=2, validated=False).close()
    assert (tmp_path / "damaged_metrics.jsonl").read_bytes() == before
    assert "damaged lines 5, 6, 7: left out of" in caplog.text
    assert records(tmp_path) == [
        {"kind": "train", "step": 1, "bits_per_sample": None},
        {"kind": "train", "step": 2, "bits_per_sample": 2.0},
    ]
    assert not records(tmp_path, "validation")  # The checkpoint of step 2 was not evaluated.


@pytest.mark.slow
def test_divergence_stops_with_the_last_good_checkpoint(tmp_path):
    run(tmp_path, train_config=dataclasses.replace(TRAIN, num_steps=3))
    _, good = final_arrays(tmp_path)
    # Any norm is too large: every update is skipped.
    diverging = dataclasses.replace(
        TRAIN, num_steps=50, skip_norm=1e-9, max_consecutive_skips=4, checkpoint_every=100
    )
    with pytest.raises(TrainingDivergedError, match=r"last 4 steps up to step 7 .* of step 3 in"):
        run(tmp_path, train_config=diverging)
    # The evaluation of step 6 was within the streak, and left no checkpoint.
    (step, _), arrays = final_arrays(tmp_path)
    assert step == 3
    for a, b in zip(arrays, good, strict=True):
        np.testing.assert_array_equal(a, b)


def test_progress_line_reads_well():
    values = {
        "grad_norm": 1.2345,
        "learning_rate": 2e-3,
        "skipped_steps": 1,
        "seconds_per_step": 0.5,
        "clips_per_second": 16.0,
        "samples_per_second": 256000.0,
    }
    line = progress_line(120, 600, "3.4122 bits", values)
    assert line == (
        "step 120/600 | 3.4122 bits | gradient 1.23 | lr 2.00e-03 | skipped 1 | 16.0 clips/s | "
        "256,000 samples/s | 0:04:00 left"
    )
    assert re.match(r"step   2/600 ", progress_line(2, 600, "", values))


class Device:
    """A clock, and a device that needs 20 ms for a step while the host goes on."""

    def __init__(self):
        self.now = self.busy_until = self.idle = 0.0
        self.steps = []

    def read(self, start_example, seconds=0.015):
        for index in range(start_example, 10**6):
            self.now += seconds
            yield make_batch(index)

    def train_step(self, state, batch):
        if self.steps:
            self.idle += max(0.0, self.now - self.busy_until)
        self.busy_until = max(self.now, self.busy_until) + 0.02
        self.steps.append(self.now)
        metrics = dict.fromkeys(("bits_per_sample", "grad_norm", "learning_rate"), 1.0)
        metrics |= dict.fromkeys(("skipped_steps", "consecutive_skips"), 0)
        return state, {name: Result(self, value) for name, value in metrics.items()}


class Result:
    """A number that is there when the device is done."""

    def __init__(self, device, value):
        self.device, self.value, self.ready_at = device, value, device.busy_until

    def __array__(self, *args, **kwargs):
        self.device.now = max(self.device.now, self.ready_at)
        return np.asarray(self.value)


def fake_trainer(device, workdir, batches):
    """Evaluates never, and saves at the end."""
    config = dataclasses.replace(
        TRAIN, num_steps=40, log_every=4, eval_every=100, checkpoint_every=100
    )
    objective = make_objective(NoisyUnigram())
    trainer = Trainer(objective, config, mesh=MESH, batches=batches, workdir=workdir)
    trainer.train_step = device.train_step
    return trainer


def test_the_device_never_waits_for_batches_or_metrics(tmp_path):
    device = Device()
    with fake_trainer(device, tmp_path, device.read) as trainer:
        while not trainer.at_end:
            trainer.take_step()
    assert len(device.steps) == 40
    # Of the 0.8 s; with a batch read only when its step begins 15 ms at each line of progress.
    assert device.idle <= 0.02 * 40 * 0.02
    assert next(trainer.batches)["tokens"].tolist() == make_batch(40)["tokens"].tolist()


def test_an_error_of_the_reader_is_for_the_step_that_needs_the_batch(tmp_path):
    def batches(start_example):
        yield from map(make_batch, range(3))
        raise OSError("gone")

    device = Device()
    with fake_trainer(device, tmp_path, batches) as trainer:
        for _ in range(3):
            trainer.take_step()
        assert trainer.progress.examples_seen == 3 * TRAIN.batch_size
        with pytest.raises(OSError, match="gone"):
            trainer.take_step()
    assert len(device.steps) == 3


def test_nothing_is_compiled_again(tmp_path, caplog):
    evaluator = make_likelihood_evaluator(Unigram(), MESH, chunk_length=4)
    counts = []

    def on_batch(first):
        prefix = "Finished XLA compilation"
        counts.append(sum(record.getMessage().startswith(prefix) for record in caplog.records))

    def evaluate(params, should_stop):
        batch = make_batch(0) | {"indices": np.arange(8, dtype=np.int32)}
        return evaluator(params, [batch], should_stop).summary()

    with jax.log_compiles():
        run(tmp_path, on_batch=on_batch, evaluate=evaluate)
    on_batch(None)
    # Step by step; after the second come the first checkpoint and its checksums.
    assert 0 < counts[0] < counts[1] == counts[2] and counts[3] == counts[-1]
