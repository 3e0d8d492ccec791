import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.classifier.augment import Noise, augmented_log_mel
from poolformer_jax.classifier.augmentation import draw_augmentation, draw_noise_share
from poolformer_jax.classifier.config import ClassifierTrainConfig
from poolformer_jax.classifier.network import classify
from poolformer_jax.classifier.step import init_classifier_state, make_classifier_step
from tests.classifier.tiny_classifier import AUGMENT, MODEL, TRAIN, make_audio_batch, make_batch
from tests.layers.conftest import quick_compilation

__all__ = ["quick_compilation"]
pytestmark = pytest.mark.usefixtures("quick_compilation")

step = jax.jit(make_classifier_step(MODEL, TRAIN, AUGMENT))


@functools.cache
def start_state():
    return init_classifier_state(MODEL, TRAIN)


@jax.jit
def loss_and_gradient(params, stats, mels, labels):
    def loss_fn(params):
        logits, _, new = classify(MODEL, params, stats, mels, train=True)
        log_p = logits - jax.nn.logsumexp(logits, axis=1, keepdims=True)
        return -jnp.mean(log_p[jnp.arange(len(labels)), labels]), (logits, new)

    return jax.value_and_grad(loss_fn, has_aux=True)(params)


def test_update_is_that_of_sgd_with_momentum_and_decay_in_the_gradient():
    """Two steps with rates 0.05 and 0.02, against the formula leaf by leaf."""
    state = start_state()
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params)
    velocity = jax.tree.map(np.zeros_like, params)
    for index, rate in enumerate((0.05, 0.02)):
        batch = make_batch(index)
        (loss, _), gradient = loss_and_gradient(state.params, state.stats, **batch)
        state, metrics = step(state.replace(learning_rate=jnp.float32(rate)), batch)
        velocity = jax.tree.map(
            lambda v, g, p: 0.9 * v + np.asarray(g, np.float64) + 1e-2 * p,
            velocity,
            gradient,
            params,
        )
        params = jax.tree.map(lambda p, v, rate=rate: p - rate * v, params, velocity)
        # The same program, compiled apart.
        assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    # Float32 gradients of order 1 from two programs, times the rate, twice.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), state.params, params
    )
    assert int(state.step) == 2


def test_statistics_and_accuracy_are_those_of_the_batch():
    batch = make_batch(0)
    state, metrics = step(start_state(), batch)
    start = start_state()
    (_, (logits, stats)), _ = loss_and_gradient(start.params, start.stats, **batch)
    correct = np.mean(np.argmax(logits, 1) == batch["labels"])
    assert float(metrics["accuracy"]) == correct
    # The same program, compiled apart; means are of order 100.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), state.stats, stats
    )


def test_clips_are_changed_anew_in_every_step():
    batch = make_audio_batch(0)
    losses = [
        float(step(start_state().replace(step=jnp.int32(number)), batch)[1]["loss"])
        for number in (3, 3, 4)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_changed_clips_are_what_the_network_sees():
    batch = make_audio_batch(0)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(TRAIN.seed), 1), 0)
    clip_key, noise_key, share_key = jax.random.split(key, 3)
    noise = Noise(
        jnp.asarray(batch["noise"]),
        draw_augmentation(AUGMENT, noise_key, 4),
        draw_noise_share(AUGMENT, share_key, 4),
    )
    clips = jnp.asarray(batch["audio"])
    mels = augmented_log_mel(clips, draw_augmentation(AUGMENT, clip_key, 4), noise)
    start = start_state()
    (loss, _), _ = loss_and_gradient(start.params, start.stats, mels, batch["labels"])
    _, metrics = step(start, batch)
    # Spectrograms to 1e-3 dB, through the network.
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size 0 must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 must be positive"),
        ({"momentum": 1.0}, r"momentum 1.0 must be in \[0, 1\)"),
        ({"plateau_factor": 1.0}, "plateau_factor 1.0 must be between 0 and 1"),
        ({"weight_decay": -1.0}, "weight_decay -1.0 must be at least 0"),
        ({"seed": -1}, "seed -1 must be in"),
    ],
)
def test_impossible_recipes_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        ClassifierTrainConfig(**fields)
