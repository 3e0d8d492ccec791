"""A model that is nothing like a Poolformer trains, is evaluated and draws: the protocol is enough.

Its head has two stages, so there is no tensor of logits; its chunks may have any length.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.evals.likelihood.evaluator import make_likelihood_evaluator
from poolformer_jax.models.sequence_model import SequenceModel, count_params
from poolformer_jax.sampling.streaming import generate, prime
from poolformer_jax.training.config import TrainConfig
from poolformer_jax.training.loop import train
from poolformer_jax.training.sequence_objective import SequenceObjective
from poolformer_jax.training.trainer import Trainer

MESH = sharding.make_mesh(devices=jax.devices()[:1])


@dataclasses.dataclass(frozen=True)
class Bigram:
    """p(code | code before): of four quarters first, then of the four codes in it."""

    num_codes = 16
    num_classes = 0
    chunk_multiple = 1
    parameter_rules = sharding.REPLICATED

    def init_params(self, key):
        return {"quarter": jnp.zeros((16, 4)), "code": jnp.zeros((16, 4, 4))}

    def init_state(self, batch, labels=None, *, guided=False):
        return jnp.zeros((batch,), jnp.int32)

    def log_probs(self, params, codes, state, *, inputs=None, dropout_key=None):
        inputs = codes if inputs is None else inputs
        before = jnp.concatenate([state[:, None], inputs[:, :-1]], axis=1)
        quarter, code = codes // 4, codes % 4
        of_quarter = jax.nn.log_softmax(params["quarter"])[before, quarter]
        of_code = jax.nn.log_softmax(params["code"])[before, quarter, code]
        return of_quarter + of_code, inputs[:, -1]

    def draw_in_parallel(self, params, codes, state, key):
        before = jnp.concatenate([state[:, None], codes[:, :-1]], axis=1)
        keys = jax.random.split(key)
        quarter = jax.random.categorical(keys[0], params["quarter"][before])
        code = jax.random.categorical(keys[1], params["code"][before, quarter])
        return (4 * quarter + code).astype(jnp.int32)

    def step_log_probs(self, params, codes, state):
        log_probs, state = self.log_probs(params, codes[:, None], state)
        return log_probs[:, 0], state

    def noise(self, keys):
        return jax.vmap(lambda key: jax.random.gumbel(key, (2, 4)))(keys)

    def draw(self, params, noise, state, *, draw):
        quarter = jnp.argmax(params["quarter"][state] + noise[:, 0], axis=-1)
        code = jnp.argmax(params["code"][state, quarter] + noise[:, 1], axis=-1)
        codes = (4 * quarter + code).astype(jnp.int32)
        log_probs, state = self.step_log_probs(params, codes, state)
        return codes, log_probs, state


MODEL = Bigram()
TRUE = np.random.default_rng(0).dirichlet(np.full(16, 0.3), size=16)  # p(code | code before)


def draw_batch(index, batch_size=8, length=50):
    rng = np.random.default_rng(index)
    tokens = np.zeros((batch_size, length), np.int32)
    before = np.zeros(batch_size, np.int32)
    for t in range(length):
        before = tokens[:, t] = [rng.choice(16, p=TRUE[code]) for code in before]
    lengths = np.full(batch_size, length, np.int32)
    return {"tokens": tokens, "lengths": lengths, "indices": np.arange(batch_size, dtype=np.int32)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    evaluate = make_likelihood_evaluator(MODEL, MESH, chunk_length=20)
    validation = [draw_batch(1000, 64)]

    def batches(start_example):
        for index in range(start_example // 8, 10**6):
            batch = draw_batch(index)
            yield {name: batch[name] for name in ("tokens", "lengths")}

    config = TrainConfig(
        num_steps=300,
        batch_size=8,
        learning_rate=0.1,
        warmup_steps=1,
        ema_decay=0.9,
        eval_every=300,
    )
    objective = SequenceObjective(
        MODEL, lambda params, stop: evaluate(params, validation, stop).summary()
    )
    workdir = tmp_path_factory.mktemp("bigram")
    trainer = Trainer(objective, config, mesh=MESH, batches=batches, workdir=workdir)
    assert train(trainer).finished
    return trainer, validation


def test_it_is_a_sequence_model():
    assert isinstance(MODEL, SequenceModel)
    assert count_params(MODEL) == 16 * 4 + 16 * 16


def test_it_learns_what_there_is_to_learn(trained):
    trainer, validation = trained
    (clips,) = validation
    before = np.pad(clips["tokens"][:, :-1], ((0, 0), (1, 0)))
    best = -np.log2(TRUE[before, clips["tokens"]]).mean()
    # Of 16 rows of 15 numbers each, learnt from 120,000 codes.
    assert best - 0.02 < trainer.progress.validation["bits_per_sample"] < best + 0.1 < 4.0


def test_it_draws_what_it_has_learnt_and_reads_it_back(trained):
    params = jax.device_get(trained[0].state.ema_params)
    codes, log_probs = generate(MODEL, params, jax.random.key(0), 64, 200)
    pairs = np.zeros((16, 16))
    np.add.at(pairs, (codes[:, :-1].ravel(), codes[:, 1:].ravel()), 1)
    seen = pairs.sum(axis=1) > 500
    assert seen.sum() > 5
    # Frequencies of 500 draws and more, of a model that is not quite the truth.
    np.testing.assert_allclose(
        (pairs / pairs.sum(axis=1, keepdims=True))[seen], TRUE[seen], atol=0.1
    )
    for length in (1, 7):
        state, first = prime(MODEL, params, MODEL.init_state(64), codes[:, :length])
        _, rest = prime(MODEL, params, state, codes[:, length:])
        read = np.concatenate([first, rest], axis=1)
        np.testing.assert_allclose(read, log_probs, rtol=0, atol=1e-5)  # Float32, two programs.
