import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.classifier.augmentation import augmented_log_mel, draw_changes
from poolformer_jax.classifier.log_mel import log_mel
from poolformer_jax.classifier.network import classify
from poolformer_jax.training.loop import train
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.step import make_train_step
from poolformer_jax.training.trainer import Trainer
from tests.classifier.tiny_classifier import AUGMENT, MODEL, TRAIN, make_batch, make_objective

KEY = jax.random.key(7)
OBJECTIVE = make_objective()
COUNT = jnp.float32(4)

loss = jax.jit(OBJECTIVE.loss)
loss_and_gradient = jax.jit(jax.value_and_grad(OBJECTIVE.loss, has_aux=True))


@pytest.fixture(scope="module")
def start():
    return init_train_state(OBJECTIVE, TRAIN)


@jax.jit
def network(params, stats, batch):
    if "noise" in batch:
        changes = draw_changes(AUGMENT, KEY, batch["noise"])
        mels = augmented_log_mel(batch["audio"], *changes)
    else:
        mels = log_mel(batch["audio"])
    logits, _, new = classify(MODEL, params, stats, mels, train=True)
    return logits, new


@pytest.mark.parametrize("with_noise", [False, True])
def test_loss_and_statistics_are_those_of_the_batch_as_the_network_sees_it(start, with_noise):
    batch = make_batch(0, with_noise=with_noise)
    logits, new = network(start.params, start.statistics, batch)
    value, (stats, sums) = loss(start.params, start.statistics, batch, KEY, COUNT)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    # The same program, compiled apart.
    assert float(value) == pytest.approx(-log_p[np.arange(4), batch["labels"]].mean(), rel=1e-5)
    assert float(sums["accuracy"]) == np.mean(log_p.argmax(1) == batch["labels"])
    # Means are of order 100.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), stats, new)


def test_loss_mixes_no_types(start):
    gradient = jax.grad(OBJECTIVE.loss, has_aux=True)
    with jax.numpy_dtype_promotion("strict"):
        batch = make_batch(0, with_noise=True)
        jax.eval_shape(gradient, start.params, start.statistics, batch, KEY, COUNT)


def test_clips_are_changed_as_the_key_says(start):
    batch = make_batch(0, with_noise=True)
    losses = [
        float(loss(start.params, start.statistics, batch, jax.random.key(seed), COUNT)[0])
        for seed in (3, 3, 4)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_update_is_that_of_sgd_with_momentum_and_decay_in_the_gradient(start):
    """Two steps with their own keys and rates of a cosine, against the formula leaf by leaf."""
    config = dataclasses.replace(TRAIN, schedule="cosine", num_steps=3)
    state, root_key = start, jax.random.key(config.seed)
    step = jax.jit(make_train_step(OBJECTIVE, config))
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params)
    velocity = jax.tree.map(np.zeros_like, params)
    for index, rate in enumerate((0.05, 0.05 * 3 / 4)):  # cos 60° is 1/2.
        batch = make_batch(index, with_noise=True)
        key = jax.random.fold_in(jax.random.fold_in(root_key, index), 0)
        (value, (stats, sums)), gradient = loss_and_gradient(
            state.params, state.statistics, batch, key, COUNT
        )
        state, metrics = step(state, batch)
        velocity = jax.tree.map(
            lambda v, g, p: 0.9 * v + np.asarray(g, np.float64) + 1e-2 * p,
            velocity,
            gradient,
            params,
        )
        params = jax.tree.map(lambda p, v, rate=rate: p - rate * v, params, velocity)
        # The same program, compiled apart.
        assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
        assert float(metrics["accuracy"]) == float(sums["accuracy"])
        assert float(metrics["learning_rate"]) == pytest.approx(rate)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            state.statistics,
            stats,
        )
    # Float32 gradients of order 1 from two programs, times the rate, twice.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), state.params, params
    )
    jax.tree.map(np.testing.assert_array_equal, state.ema_params, state.params)
    assert int(state.step) == 2


def test_as_many_clips_are_classified_side_by_side_as_asked(start, monkeypatch):
    sizes = []

    def count(config, mesh, params, stats, audio):
        sizes.append(len(audio))
        return np.zeros((len(audio), 1), np.float32), np.zeros((len(audio), 3), np.float32)

    monkeypatch.setattr("poolformer_jax.classifier.inference._classify", count)
    OBJECTIVE.evaluate(start.params, start.statistics, lambda: False)
    assert sizes == [8, 8]  # Ten clips, and silence.


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """The objective with evaluations that are made up, in the order in which they are asked for."""

    objective: object
    results: list

    def __getattr__(self, name):
        return getattr(self.objective, name)

    def evaluate(self, params, statistics, should_stop):
        accuracy, loss = self.results.pop(0)
        return {"accuracy": accuracy, "loss": loss, "num_clips": 10}


# Of equal accuracies the one with the lower loss is the best, at step 4.
RESULTS = [(0.3, 1.1), (0.5, 1.0), (0.9, 0.7), (0.9, 0.8)]


def run(workdir, *, config=TRAIN, results=RESULTS, kill_before=None):
    """Trains; returns what was best, by its step."""
    best = {}

    def batches(start_example):
        yield from map(make_batch, range(start_example // 4, 99))

    def on_best(state, metrics):
        best[int(state.step)] = jax.tree.map(np.asarray, (state.params, state.statistics))

    trainer = Trainer(
        Judged(OBJECTIVE, list(results)),
        config,
        mesh=sharding.make_mesh(devices=jax.devices()[:1]),
        batches=batches,
        workdir=workdir,
        on_best=on_best,
    )
    take_step = trainer.train_step

    def train_step(state, batch):
        if trainer.step == kill_before:
            raise KeyboardInterrupt
        return take_step(state, batch)

    trainer.train_step = train_step
    outcome = train(trainer)
    return trainer.state, outcome, best


def test_best_classifier_is_announced_and_a_killed_run_goes_on_bit_for_bit(tmp_path):
    state, outcome, best = run(tmp_path / "whole")
    assert outcome.finished and list(best) == [0, 2, 4]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", kill_before=5)
    resumed, _, later = run(tmp_path / "killed", results=RESULTS[3:])
    assert not later  # It knows that a better one was found before.
    jax.tree.map(np.testing.assert_array_equal, resumed, state)


def test_rate_falls_when_the_validation_loss_does_not(tmp_path):
    plateau = dataclasses.replace(TRAIN, schedule="plateau", plateau_patience=1, num_steps=10)
    losses = [1.0, 0.9, 0.9, 0.95, 0.9, 2.0]  # One is put up with, the next lowers the rate.
    state, _, _ = run(tmp_path, config=plateau, results=[(0.5, loss) for loss in losses])
    assert float(state.opt_state[-1].scale) == pytest.approx(0.01)
    rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    rates = {row["step"]: row["learning_rate"] for row in rows if row["kind"] == "train"}
    assert rates[6] == pytest.approx(0.05) and rates[7] == pytest.approx(0.005)


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in jax.tree.leaves(tree)))


@pytest.mark.slow
def test_eight_devices_train_like_one(start):
    def train_on(devices):
        mesh = sharding.make_mesh(devices=devices)
        objective = make_objective(mesh=mesh)
        init = functools.partial(init_train_state, objective, TRAIN)
        abstract = sharding.abstract_state(mesh, init)
        step = sharding.jit_train_step(make_train_step(objective, TRAIN), mesh, abstract)
        state, losses = sharding.init_sharded(mesh, init), []
        for index in range(3):
            batch = sharding.put_batch(mesh, make_batch(index, 8, with_noise=True))
            assert len(batch["audio"].addressable_shards) == len(devices)
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        return losses, jax.tree.map(np.asarray, (state.params, state.statistics))

    one_losses, one = train_on(jax.devices()[:1])
    losses, eight = train_on(jax.devices()[:8])
    assert len(set(losses)) == 3
    # Sums in another order. Statistics of parts of a batch, or other changes of the clips, would
    # show as 0.01 or more.
    np.testing.assert_allclose(losses, one_losses, rtol=1e-6)
    for a, b, first in zip(one, eight, (start.params, start.statistics), strict=True):
        difference = jax.tree.map(np.subtract, a, b)
        assert norm(difference) <= 1e-5 * norm(jax.tree.map(np.subtract, a, first))
