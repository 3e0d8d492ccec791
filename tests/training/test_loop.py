import contextlib
import dataclasses
import json
import logging
import math
import os
import re
import shutil
import signal
import types

import jax
import numpy as np
import pytest

from poolformer_jax.evals.likelihood.evaluator import make_likelihood_evaluator
from poolformer_jax.lock import LockedError
from poolformer_jax.training.checkpoint import Checkpointer, Progress
from poolformer_jax.training.errors import TrainingDivergedError, TrainingError
from poolformer_jax.training.metrics import MetricWriter, progress_line
from poolformer_jax.training.trainer import Outcome, Trainer
from tests.training.tiny import TRAIN, Unigram, make_batch, make_objective
from tests.training.tiny_runs import (
    MESH,
    OBJECTIVE,
    NoisyUnigram,
    assert_same_run,
    final_state,
    records,
    run,
)


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


@pytest.mark.parametrize(("minutes", "steps"), [(1e-9, [2, 4, 6]), (1_000.0, [6])])
def test_checkpoints_follow_the_clock_at_lines_of_progress(tmp_path, minutes, steps, monkeypatch):
    saved, save = [], Checkpointer.save

    def note(self, state, progress):
        saved.append(int(state.step))
        save(self, state, progress)

    monkeypatch.setattr(Checkpointer, "save", note)
    recipe = {"log_every": 2, "eval_every": 100, "checkpoint_every": 100}
    run(tmp_path, train_config=dataclasses.replace(TRAIN, **recipe, checkpoint_minutes=minutes))
    assert saved == steps


@pytest.mark.parametrize(
    "stop_at", [3, *(pytest.param(step, marks=pytest.mark.nightly) for step in (1, 4, 5))]
)
def test_resumed_run_is_the_uninterrupted_run(whole, tmp_path, stop_at):
    def on_batch(first):
        if first == 8 * (stop_at - 1):
            os.kill(os.getpid(), signal.SIGTERM)

    outcome, _ = run(tmp_path, on_batch=on_batch)
    assert (outcome.step, outcome.finished) == (stop_at, False)
    outcome, _ = run(tmp_path)
    assert outcome.finished
    assert_same_run(tmp_path, whole[0])


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
    _, progress = final_state(tmp_path)
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
