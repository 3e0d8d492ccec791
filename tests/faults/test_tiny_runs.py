"""What breaks in a run of one process leaves parameters, optimiser and log as if nothing had.

One case of each fault, which is always the same; POOLFORMER_FAULTS=20 tries twenty.
"""

import dataclasses
import os
import random
import re
import resource
import shutil
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.data.errors import UnreadableClipError
from poolformer_jax.data.pipeline import train_batches
from poolformer_jax.data.source import open_splits
from poolformer_jax.disk_full import DiskFullError
from poolformer_jax.training.checkpoint import Checkpointer
from poolformer_jax.training.errors import TrainingDivergedError
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.step import make_train_step
from tests.training.tiny import TRAIN, make_batch, make_objective
from tests.training.tiny_runs import (
    OBJECTIVE,
    NoisyUnigram,
    assert_same_run,
    final_state,
    records,
    run,
)

every_case = pytest.mark.parametrize("case", range(int(os.environ.get("POOLFORMER_FAULTS", 1))))


class NotANumber(NoisyUnigram):
    """Its loss is finite, and its gradient is not: the square root's at 0 is infinite."""

    def log_probs(self, params, codes, state, **options):
        log_probs, state = super().log_probs(params, codes, state, **options)
        return log_probs + jnp.sqrt(0.0 * jnp.sum(params["logits"])), state


faulty_step = jax.jit(make_train_step(make_objective(NotANumber()), TRAIN))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    run(workdir)
    return workdir


def run_to_the_end(workdir, taken, **options):
    """Goes on after a fault; `taken` are the first examples of the steps taken before."""
    before = len(taken)
    outcome, _ = run(workdir, on_batch=taken.append, **options)
    assert outcome.finished and len(taken) > before
    print(f"steps done again: {len(taken) - len({*taken})}")


@every_case
def test_a_checkpoint_is_cut_off(undisturbed, tmp_path, case, caplog):
    rng, taken = random.Random(case), []
    stop_at = rng.choice([3, 4, 5])

    def stop(first):
        taken.append(first)
        if len(taken) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    run(tmp_path, on_batch=stop)
    item = rng.choice(["params", "ema_params", "optimizer", "progress"])
    files = [p for p in (tmp_path / f"checkpoints/{stop_at}/{item}").rglob("*") if p.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    os.truncate(path, rng.randrange(path.stat().st_size))
    run_to_the_end(tmp_path, taken)
    assert f"checkpoints/{stop_at} is damaged" in caplog.text
    assert re.search(r"the checkpoint of step \d takes its place", caplog.text)
    assert_same_run(tmp_path, undisturbed)


@every_case
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's writers.
def test_the_disk_is_full_while_saving(undisturbed, tmp_path, case, monkeypatch):
    rng, taken, before = random.Random(case), [], resource.getrlimit(resource.RLIMIT_FSIZE)
    last, at = rng.choice([(2, 3), (3, 4), (4, 6)])
    save = Checkpointer.save

    def save_and_fail(self, state, progress):
        if int(state.step) == at:
            self.wait()
            # Bytes of a file: less than the largest of a checkpoint has, 2,221.
            resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(2_000), before[1]))
        save(self, state, progress)

    message = (
        rf"^the disk of {tmp_path} is full \([\d.,]+ MB free\); the last checkpoint, of step "
        rf"{last} in {tmp_path}/checkpoints, is intact: make room, and run the same command again$"
    )
    monkeypatch.setattr(Checkpointer, "save", save_and_fail)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # It would be cut off, and stay.
    try:
        with pytest.raises(DiskFullError, match=message):
            run(tmp_path, on_batch=taken.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    monkeypatch.undo()
    run_to_the_end(tmp_path, taken)
    assert_same_run(tmp_path, undisturbed)


@every_case
def test_a_gradient_is_not_a_number_once(undisturbed, tmp_path, case):
    """The run goes on as one that has never seen the clips of that step."""
    bad = random.Random(case).randrange(6)

    def fault(first):
        return faulty_step if first == bad * TRAIN.batch_size else None

    assert run(tmp_path, on_batch=fault)[0].finished
    state, step = init_train_state(OBJECTIVE, TRAIN), jax.jit(make_train_step(OBJECTIVE, TRAIN))
    for index in range(6):
        if index == bad:
            one = jnp.asarray(1)
            counts = {"skipped_steps": one, "consecutive_skips": one}
            state = dataclasses.replace(state, step=state.step + 1, **counts)
        else:
            state, _ = step(state, jax.tree.map(jnp.asarray, make_batch(index * 8)))
    found, _ = final_state(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert records(tmp_path)[:bad] == records(undisturbed)[:bad]
    skipped = records(tmp_path)[bad]
    assert (skipped["grad_norm"], skipped["skipped_steps"]) == (None, 1)


@every_case
def test_gradients_are_not_numbers_from_some_step_on(undisturbed, tmp_path, case):
    """No skipped step is in a checkpoint: on a sound device the run goes on from before."""
    rng, taken = random.Random(case), []
    bad, patience = rng.choice([(2, 4), (2, 3), (3, 3), (3, 2), (4, 2), (5, 1)])

    def fault(first):
        taken.append(first)
        return faulty_step if len(taken) > bad else None

    message = (
        rf"the last {patience} steps up to step {bad + patience} were skipped: .* the gradient "
        rf"norm \(nan\) is not finite.* The last good checkpoint is of step {min(bad, 4)} in "
    )
    with pytest.raises(TrainingDivergedError, match=message):
        run(
            tmp_path,
            train_config=dataclasses.replace(TRAIN, max_consecutive_skips=patience),
            on_batch=fault,
        )
    run_to_the_end(tmp_path, taken)
    assert_same_run(tmp_path, undisturbed)


@every_case
def test_a_record_cannot_be_read(tmp_path, tiny_config, case, caplog):
    """Nor any other of the file, in the midst of a run; the data set is made again."""
    rng, taken = random.Random(case), []
    config = dataclasses.replace(TRAIN, num_steps=30, checkpoint_every=10, eval_every=100)
    shutil.copytree(tiny_config.data_dir, tmp_path / "data")
    data = dataclasses.replace(tiny_config, data_dir=str(tmp_path / "data"), seq_len=12)
    (file,) = (tmp_path / "data").rglob("*-train.array_record-*")
    damage_at = rng.randrange(8 * 10, 8 * 20, 8)

    def batches(start_example):
        clips = open_splits(data)["train"]
        for batch in train_batches(clips, data, batch_size=8, start_example=start_example):
            yield batch | {"tokens": batch["tokens"] >> 4}

    def damage(first):
        taken.append(first)
        if first == damage_at:
            with file.open("r+b") as content:
                content.write(rng.randbytes(file.stat().st_size))

    options = {"train_config": config, "batches": batches}
    run(tmp_path / "wanted", **options)
    with pytest.raises(
        UnreadableClipError, match=r"^clip \d+ of 80 cannot be read \(.*: .*\); run"
    ):
        run(tmp_path / "found", on_batch=damage, **options)
    run_to_the_end(tmp_path / "found", taken, **options)
    assert "is damaged and is made again" in caplog.text
    assert_same_run(tmp_path / "found", tmp_path / "wanted")
