import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poolformer_jax.training.optimizer import make_schedule
from poolformer_jax.training.sequence_objective import read_own_draws
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.step import make_train_step
from tests import oracle
from tests.models.test_any_model import Bigram
from tests.training.tiny import (
    LENGTH,
    MODEL,
    OBJECTIVE,
    Unigram,
    make_batch,
    make_objective,
    start_state,
)
from tests.training.tiny import TRAIN as DEFAULTS

# Neither Optax's numbers nor the configuration's own, and a decay that is seen after two updates.
TRAIN = dataclasses.replace(DEFAULTS, beta1=0.8, beta2=0.95, weight_decay=0.1)


@functools.cache  # One trace for all tests of a recipe.
def compiled_step(train):
    return jax.jit(make_train_step(OBJECTIVE, train))


def run_steps(train, batches, state=None):
    state = start_state() if state is None else state
    step = compiled_step(train)
    history = []
    for batch in batches:
        state, metrics = step(state, jax.tree.map(jnp.asarray, batch))
        history.append(jax.tree.map(lambda x: np.asarray(x).item(), metrics))
    return state, history


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def largest_difference(a, b):
    differences = jax.tree.map(lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), a, b)
    return max(jax.tree.leaves(differences))


@pytest.fixture(scope="module")
def start():
    return start_state()


def test_loss_is_bits_per_unpadded_sample(start):
    batch = make_batch(0)
    _, history = run_steps(TRAIN, [batch])
    logits = oracle.forward(MODEL, jax.tree.map(np.asarray, start.params), batch["tokens"])
    expected = oracle.bits(logits, batch["tokens"], batch["lengths"])
    assert history[0]["count"] == batch["lengths"].sum()
    # float32 against float64 through three levels.
    assert history[0]["bits_per_sample"] == pytest.approx(expected, rel=1e-5)


def test_onsets_weigh_more_in_the_gradient_alone():
    objective = make_objective(Unigram(), onset_weight=9.0, onset_samples=2, onsets=(0, 2))
    batch = {"tokens": jnp.array([[3, 5, 5, 0], [7, 5, 1, 1]]), "lengths": jnp.array([3, 4])}
    params, count = objective.init(jax.random.key(0))[0], jnp.float32(7)
    arguments = (params, None, batch, jax.random.key(0), count)
    (loss, (_, sums)), grads = jax.value_and_grad(objective.loss, has_aux=True)(*arguments)
    weights = 1 + 9 * np.exp(-np.arange(4) / 2)
    weights[2:] += 9 * np.exp(-np.arange(2) / 2)
    tokens, lengths = np.asarray(batch["tokens"]), np.asarray(batch["lengths"])
    counts = np.arange(4) < lengths[:, None]
    logits = np.asarray(params["logits"], np.float64)
    probs = np.exp(logits) / np.exp(logits).sum()
    bits = -np.log2(probs[tokens])
    # The gradient of -log2 p(code) is (p - onehot(code)) / ln 2.
    each = (probs - np.eye(16)[tokens]) / np.log(2)
    expected = np.sum((counts * weights)[..., None] * each, axis=(0, 1)) / 7
    np.testing.assert_allclose(grads["logits"], expected, rtol=1e-5, atol=1e-6)
    found = objective.metrics(loss, sums)["bits_per_sample"]
    assert found == pytest.approx(np.sum(counts * bits) / 7, rel=1e-5)


def test_a_share_of_the_samples_is_read_as_the_model_would_draw_them():
    model, params = Bigram(), {"quarter": jnp.zeros((16, 4)), "code": jnp.zeros((16, 4, 4))}
    # After code k it draws 15 - k, and nothing else.
    after = 15 - jnp.arange(16)
    params["quarter"] = params["quarter"].at[jnp.arange(16), after // 4].set(1e3)
    params["code"] = params["code"].at[jnp.arange(16), after // 4, after % 4].set(1e3)
    codes = jnp.asarray(np.random.default_rng(0).integers(16, size=(400, 50)), jnp.int32)
    read = functools.partial(read_own_draws, model, params, codes, model.init_state(400))
    before = np.concatenate([np.zeros((400, 1), int), codes[:, :-1]], axis=1)
    whole = read(most=1.0, key=jax.random.key(1))
    replaced = np.asarray(whole != codes)
    np.testing.assert_array_equal(whole, np.where(replaced, 15 - before, codes))
    # One in sixteen draws is the true code. Shares from 0 to 1, whose mean and deviation are known.
    shares = replaced.mean(axis=1) * 16 / 15
    assert shares.mean() == pytest.approx(0.5, abs=0.05)
    assert shares.std() == pytest.approx(np.sqrt(1 / 12), abs=0.04)
    assert np.mean(read(most=0.2, key=jax.random.key(1)) != codes) < 0.15

    # The loss is of the true codes, after what was read.
    objective = make_objective(model, sampled_inputs=1.0)
    batch = {"tokens": codes, "lengths": jnp.full(400, 50)}
    loss, _ = objective.loss(params, None, batch, jax.random.key(1), jnp.float32(20_000))
    inputs = np.asarray(read(most=1.0, key=jax.random.fold_in(jax.random.key(1), 2)))
    before = np.concatenate([np.zeros((400, 1), int), inputs[:, :-1]], axis=1)
    codes = np.asarray(codes)
    wrong, other_quarter = codes != 15 - before, codes // 4 != (15 - before) // 4
    bits = np.mean(wrong) * 1e3 / np.log(2) + np.mean(other_quarter) * 2
    assert loss == pytest.approx(bits - 4, rel=1e-5)


def test_loss_mixes_no_types(start):
    """Around it Optax adds counters to floats, so the other tests here cannot be strict."""
    gradient = jax.grad(OBJECTIVE.loss, has_aux=True)
    with jax.numpy_dtype_promotion("strict"):
        batch = jax.tree.map(jnp.asarray, make_batch(0))
        jax.eval_shape(gradient, start.params, None, batch, jax.random.key(0), jnp.float32(9))


def test_training_learns():
    _, history = run_steps(TRAIN, [make_batch(i % 4) for i in range(400)])
    assert history[0]["bits_per_sample"] > 3.8  # Near log2(16) = 4.
    assert history[-1]["bits_per_sample"] < 2.5
    assert history[-1]["skipped_steps"] == 0


def unigram_step(train=TRAIN, *, noisy=False, step=0):
    """One step on a batch of clips of several lengths; (state, metrics)."""
    objective = make_objective(Unigram(noisy))
    state = dataclasses.replace(init_train_state(objective, train), step=jnp.asarray(step))
    batch = jax.tree.map(jnp.asarray, make_batch(1))
    return jax.device_get(jax.jit(make_train_step(objective, train))(state, batch))


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    """Lengths differ, so a mean of means would not do."""
    whole, metrics = unigram_step()
    for parts in (2, 4, None):
        split, found = unigram_step(dataclasses.replace(TRAIN, grad_accum_steps=parts))
        for name in ("bits_per_sample", "grad_norm"):
            assert found[name] == pytest.approx(metrics[name], rel=1e-5)
        # The first moment is a multiple of the gradient: sums of float32 in another order.
        moments = [state.opt_state[1][0].mu["logits"] for state in (whole, split)]
        np.testing.assert_allclose(*moments, atol=1e-6 * np.abs(moments[0]).max())


@pytest.mark.parametrize(("seed", "step", "parts"), [(0, 3, 1), (0, 4, 2), (1, 3, 4)])
def test_every_seed_step_and_part_has_a_key_of_its_own(seed, step, parts):
    train = dataclasses.replace(TRAIN, seed=seed, grad_accum_steps=parts)
    _, metrics = unigram_step(train, noisy=True, step=step)
    key, lengths = jax.random.fold_in(jax.random.key(seed), step), make_batch(1)["lengths"]
    nats = 0.0
    for part in range(parts):
        here = lengths[part::parts]  # Rows of every device are spread over the parts.
        noise = jax.random.uniform(jax.random.fold_in(key, part), (len(here), LENGTH))
        nats += float(np.sum(noise * (np.arange(LENGTH) < here[:, None])))
    expected = nats / np.log(2) / lengths.sum()
    assert metrics["bits_per_sample"] == pytest.approx(expected, rel=1e-5)


def test_warm_up_is_linear_then_constant():
    config = dataclasses.replace(TRAIN, learning_rate=1.0, warmup_steps=4)
    rates = [float(make_schedule(config)(count)) for count in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    no_warmup = make_schedule(dataclasses.replace(config, warmup_steps=0))
    assert float(no_warmup(0)) == 1.0


def test_update_is_adamw_and_average_is_exponential(start):
    """Two updates: after one, Adam's does not depend on its decays yet."""
    beta1, beta2 = TRAIN.beta1, TRAIN.beta2
    average, before = start.params, start
    mu = nu = jax.tree.map(np.zeros_like, start.params)
    for count in (1, 2):
        state, (metrics,) = run_steps(TRAIN, [make_batch(count)], before)
        rate = TRAIN.learning_rate * count / TRAIN.warmup_steps
        assert metrics["learning_rate"] == pytest.approx(rate)
        adam = state.opt_state[1][0]
        gradient = jax.tree.map(lambda new, old: (new - beta1 * old) / (1 - beta1), adam.mu, mu)
        assert float(optax.tree.norm(gradient)) == pytest.approx(metrics["grad_norm"], rel=1e-5)
        mu = adam.mu
        nu = jax.tree.map(lambda old, g: beta2 * old + (1 - beta2) * g**2, nu, gradient)

        def expected_update(p, m, v, count=count, rate=rate):
            m, v = m / (1 - beta1**count), v / (1 - beta2**count)
            return p - rate * (m / (np.sqrt(v) + 1e-8) + TRAIN.weight_decay * p)

        expected = jax.tree.map(expected_update, before.params, mu, nu)
        assert largest_difference(state.params, expected) < 1e-6  # 1 ulp of parameters near 3.
        average = jax.tree.map(lambda p, old: 0.1 * p + 0.9 * old, state.params, average)
        assert largest_difference(state.ema_params, average) < 1e-6
        before = state


@pytest.mark.slow
def test_gradient_is_clipped_by_global_norm():
    batch = make_batch(2)
    _, history = run_steps(TRAIN, [batch])
    norm = history[0]["grad_norm"]
    clipped, _ = run_steps(dataclasses.replace(TRAIN, clip_norm=norm / 4), [batch])
    moment = optax.tree.norm(clipped.opt_state[1][0].mu)
    assert float(moment) == pytest.approx((1 - TRAIN.beta1) * norm / 4, rel=1e-5)


@pytest.mark.parametrize("fault", ["nan_loss", "large_norm", "infinite_norm"])
def test_bad_step_is_skipped_whole(start, fault):
    train, state = TRAIN, start
    if fault == "large_norm":
        train = dataclasses.replace(TRAIN, skip_norm=1e-3)
    else:
        value = np.nan if fault == "nan_loss" else 1e25
        params = jax.tree.map(jnp.copy, start.params)
        # 1e25 is large enough for the squared gradient to overflow, small enough for the loss.
        kernel = params["head"]["projection"]["kernel"]
        params["head"]["projection"]["kernel"] = kernel.at[0, 0].set(value)
        state = dataclasses.replace(start, params=params)
    after, history = run_steps(train, [make_batch(0)] * 2, state)
    for name in ("params", "ema_params", "opt_state"):
        assert_trees_equal(getattr(after, name), getattr(state, name))
    assert [m["skipped_steps"] for m in history] == [1, 2]
    assert [m["consecutive_skips"] for m in history] == [1, 2]
    assert int(after.step) == 2
    if fault == "infinite_norm":
        assert np.isfinite(history[0]["bits_per_sample"])
        assert history[0]["grad_norm"] == np.inf
    # Skipped steps do not use up the warm-up.
    assert history[1]["learning_rate"] == history[0]["learning_rate"]


def test_good_step_ends_a_streak_of_skips(start):
    state = dataclasses.replace(
        start, skipped_steps=jnp.asarray(5, jnp.int32), consecutive_skips=jnp.asarray(3, jnp.int32)
    )
    _, history = run_steps(TRAIN, [make_batch(0)], state)
    assert history[0]["skipped_steps"] == 5
    assert history[0]["consecutive_skips"] == 0
