"""Which steps a trace holds, and that it is whole however training ends."""

import dataclasses
import os
import signal

import jax
import pytest

from poolformer_jax import sharding
from poolformer_jax.training.loop import train
from poolformer_jax.training.trainer import Trainer
from tests.training.tiny import TRAIN, Unigram, make_batch, make_objective
from tests.training.traces import steps_in

OBJECTIVE = make_objective(Unigram())
MESH = sharding.make_mesh(devices=jax.devices()[:1])


def run(workdir, profile_steps, *, num_steps=6, before_step=lambda step: None):
    """Trains; `before_step` may interfere when a step is about to be computed."""
    trainer = Trainer(
        OBJECTIVE,
        dataclasses.replace(TRAIN, num_steps=num_steps),
        mesh=MESH,
        batches=lambda start_example: iter(map(make_batch, range(100))),
        workdir=workdir,
        profile_steps=profile_steps,
    )
    compute = trainer.train_step

    def train_step(state, batch):
        before_step(trainer.step + 1)
        return compute(state, batch)

    trainer.train_step = train_step
    return train(trainer)


def traces(workdir):
    """Steps by the name of the trace."""
    found = (workdir / "profile").glob("plugins/profile/*/process_0_*.xplane.pb")
    return {path.parent.name: steps_in(path) for path in found}


def test_trace_holds_these_steps(tmp_path):
    run(tmp_path, (3, 5))
    assert traces(tmp_path) == {"steps_3_to_5": [3, 4, 5]}


def test_without_steps_nothing_is_traced(tmp_path):
    run(tmp_path, None, num_steps=2)
    assert not (tmp_path / "profile").exists()


def test_devices_are_waited_for_at_both_ends(tmp_path, monkeypatch):
    pending = []

    def record(function):
        def recorded(*args):
            pending.append(len(trainer.pending))
            return function(*args)

        return recorded

    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(jax.profiler, name, record(getattr(jax.profiler, name)))
    trainer = Trainer(
        OBJECTIVE,
        dataclasses.replace(TRAIN, log_every=100, eval_every=100, checkpoint_every=100),
        mesh=MESH,
        batches=lambda start_example: iter(map(make_batch, range(100))),
        workdir=tmp_path,
        profile_steps=(3, 4),
    )
    with trainer:
        for waiting in (0, 1, 1, 0, 1):  # The first step is waited for too.
            trainer.take_step()
            assert len(trainer.pending) == waiting
    assert pending == [0, 0]


def test_run_resumed_within_the_range_leaves_its_first_step_out(tmp_path, caplog):
    run(tmp_path, None, num_steps=3)
    run(tmp_path, (2, 6))
    assert traces(tmp_path) == {"steps_5_to_6": [5, 6]}
    caplog.set_level("INFO")
    run(tmp_path, (2, 6), num_steps=8)  # Past it.
    assert "no trace: steps 2 to 6 are done" in caplog.text
    assert list(traces(tmp_path)) == ["steps_5_to_6"]


@pytest.mark.slow
def test_run_stopped_within_the_range_has_a_trace_of_what_it_took(tmp_path, caplog):
    def stop(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    caplog.set_level("INFO")
    assert run(tmp_path, (3, 6), before_step=stop).step == 4
    assert traces(tmp_path) == {"steps_3_to_4": [3, 4]}
    assert f"a trace of steps 3 to 4 is in {tmp_path}/profile/plugins/profile/s" in caplog.text


@pytest.mark.slow
def test_run_that_fails_within_the_range_has_a_trace_until_there(tmp_path):
    def fail(step):
        if step == 4:
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        run(tmp_path, (3, 6), before_step=fail)
    assert traces(tmp_path) == {"steps_3_to_4": [3, 4]}
    (tmp_path / "next").mkdir()
    run(tmp_path / "next", (2, 2), num_steps=2)  # JAX traces one thing at a time.
    assert traces(tmp_path / "next") == {"steps_2_to_2": [2]}
