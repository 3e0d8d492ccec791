"""A run of six steps by the training loop, in which a test may interfere; and what it leaves."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from poolformer_jax import sharding
from poolformer_jax.training.checkpoint import Checkpointer
from poolformer_jax.training.loop import train
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.trainer import Trainer
from tests.training.tiny import TRAIN, Unigram, make_batch, make_objective


class NoisyUnigram(Unigram):
    """Learns, and depends on the key of dropout."""

    def init_params(self, key):
        return {"logits": jnp.zeros(16)}

    def log_probs(self, params, codes, state, *, inputs=None, dropout_key=None):
        noise = jax.random.bernoulli(dropout_key, 0.7, (16,))
        return jax.nn.log_softmax(params["logits"] * noise)[codes], state


OBJECTIVE = make_objective(NoisyUnigram())
MESH = sharding.make_mesh(devices=jax.devices()[:1])


def tiny_batches(start_example):
    for first in range(start_example, 10**6, TRAIN.batch_size):
        yield make_batch(first)


def run(
    workdir,
    *,
    train_config=TRAIN,
    batches=tiny_batches,
    on_batch=None,
    on_eval=None,
    bits=None,
    evaluate=None,
    **options,
):
    """Trains; `on_batch(first example of a step)` and `on_eval(evaluations)` may interfere.

    What `on_batch` returns takes the step instead, unless it is None.
    """
    evaluations = []

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
            other = on_batch(trainer.progress.examples_seen)
            return (other or take_step)(state, batch)

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


def final_state(workdir):
    """(state, progress) of the last checkpoint."""
    init = functools.partial(init_train_state, OBJECTIVE, TRAIN)
    checkpointer = Checkpointer(workdir / "checkpoints", OBJECTIVE.rank)
    state, progress = checkpointer.restore(sharding.abstract_state(MESH, init))
    checkpointer.close()
    return state, progress


def assert_same_run(found, wanted):
    """The log, every array and the position in the data are the same, bit for bit."""
    assert records(found) == records(wanted)
    (state, progress), (expected, expected_progress) = final_state(found), final_state(wanted)
    assert progress == expected_progress
    jax.tree.map(np.testing.assert_array_equal, state, expected)
