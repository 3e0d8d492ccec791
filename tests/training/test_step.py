import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from poolformer_jax.training.optimizer import make_schedule
from poolformer_jax.training.step import make_train_step
from tests import oracle
from tests.training.tiny import MODEL, OBJECTIVE, TRAIN, make_batch, make_objective, start_state


def run_steps(train, batches, state=None):
    state = start_state() if state is None else state
    step = jax.jit(make_train_step(OBJECTIVE, train))
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
    # float32 against float64 through three levels.
    assert history[0]["bits_per_sample"] == pytest.approx(expected, rel=1e-5)


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


@pytest.mark.slow
def test_accumulation_gives_the_gradient_of_the_whole_batch():
    batch = make_batch(1)  # Lengths differ, so a mean of means would not do.
    whole, whole_metrics = run_steps(TRAIN, [batch])
    for parts in (2, 4):
        config = dataclasses.replace(TRAIN, grad_accum_steps=parts)
        split, metrics = run_steps(config, [batch])
        for name in ("bits_per_sample", "grad_norm"):
            assert metrics[0][name] == pytest.approx(whole_metrics[0][name], rel=1e-5)
        # The first moment is 0.1 gradients: sums of float32 in another order.
        moments = [jax.tree.leaves(state.opt_state[1][0].mu) for state in (whole, split)]
        for a, b in zip(*moments, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6 * max(1e-2, np.abs(a).max()))


@pytest.mark.slow
def test_dropout_follows_seed_and_step(start):
    objective = make_objective(dataclasses.replace(MODEL, dropout=0.5))
    step = jax.jit(make_train_step(objective, TRAIN))
    batch = jax.tree.map(jnp.asarray, make_batch(0))

    def loss_at(number, seed=0):
        fn = step
        if seed:
            fn = jax.jit(make_train_step(objective, dataclasses.replace(TRAIN, seed=seed)))
        state = dataclasses.replace(start, step=jnp.asarray(number, jnp.int32))
        return float(fn(state, batch)[1]["bits_per_sample"])

    assert loss_at(3) == loss_at(3)
    assert len({loss_at(3), loss_at(4), loss_at(5), loss_at(3, seed=1)}) == 4


def test_warm_up_is_linear_then_constant():
    config = dataclasses.replace(TRAIN, learning_rate=1.0, warmup_steps=4)
    rates = [float(make_schedule(config)(count)) for count in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    no_warmup = make_schedule(dataclasses.replace(config, warmup_steps=0))
    assert float(no_warmup(0)) == 1.0


def test_update_is_adamw_and_average_is_exponential(start):
    batch = make_batch(2)
    state, history = run_steps(TRAIN, [batch])
    rate = TRAIN.learning_rate / TRAIN.warmup_steps
    assert history[0]["learning_rate"] == pytest.approx(rate)

    def expected_update(mu, nu, p):
        # After one step the bias corrections leave m = gradient, v = gradient^2.
        gradient = mu / (1 - TRAIN.beta1)
        second = nu / (1 - TRAIN.beta2)
        return p - rate * (gradient / (np.sqrt(second) + 1e-8) + TRAIN.weight_decay * p)

    adam = state.opt_state[1][0]
    expected = jax.tree.map(expected_update, adam.mu, adam.nu, start.params)
    assert largest_difference(state.params, expected) < 1e-6  # 1 ulp of parameters near 3.
    average = jax.tree.map(lambda p, old: 0.1 * p + 0.9 * old, state.params, start.params)
    assert largest_difference(state.ema_params, average) < 1e-6


@pytest.mark.slow
def test_gradient_is_clipped_by_global_norm():
    batch = make_batch(2)
    _, history = run_steps(TRAIN, [batch])
    norm = history[0]["grad_norm"]
    clipped, _ = run_steps(dataclasses.replace(TRAIN, clip_norm=norm / 4), [batch])
    moment = optax.tree.norm(clipped.opt_state[1][0].mu)
    assert float(moment) == pytest.approx(0.1 * norm / 4, rel=1e-5)


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
