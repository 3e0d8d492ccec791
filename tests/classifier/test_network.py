import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.classifier.config import ClassifierConfig
from poolformer_jax.classifier.network import (
    classify,
    count_params,
    init_classifier,
)
from tests.classifier.random_classifier import random_classifier
from tests.classifier.resnext_oracle import convolve

SMALL = ClassifierConfig(kind="small")
classify_small = jax.jit(functools.partial(classify, SMALL), static_argnames="train")


def random_mels(batch, seed=0):
    return np.random.default_rng(seed).uniform(-80, 0, (batch, 32, 32)).astype(np.float32)


def test_parameter_counts_are_the_published_and_the_documented():
    assert count_params(ClassifierConfig(kind="resnext29_8x64d")) == 34_425_546
    assert count_params(SMALL) == 316_394


@pytest.mark.parametrize(("kind", "width"), [("resnext29_8x64d", 1024), ("small", 192)])
def test_training_returns_statistics_of_the_same_form(kind, width):
    config = ClassifierConfig(kind=kind, num_classes=3)
    params, stats = jax.eval_shape(lambda key: init_classifier(config, key), jax.random.key(0))
    mels = jax.ShapeDtypeStruct((2, 32, 32), jnp.float32)
    step = functools.partial(classify, config, train=True)
    logits, features, new = jax.eval_shape(step, params, stats, mels)
    assert (logits.shape, features.shape) == ((2, 3), (2, width))
    assert jax.tree.map(lambda a: a.shape, new) == jax.tree.map(lambda a: a.shape, stats)


def test_small_equals_a_forward_pass_in_numpy():
    params, stats = random_classifier(SMALL)
    mels = random_mels(2)
    logits, features, _ = classify_small(params, stats, mels)
    for i in range(2):
        x = mels[i][None].astype(np.float64)
        for layer in range(4):
            weights, running = params[f"conv_{layer}"], stats[f"conv_{layer}"]
            kernel = np.asarray(weights["conv"]["kernel"], np.float64).transpose(3, 2, 0, 1)
            x = convolve(x, kernel, stride=1 if layer == 0 else 2)
            mean, var, scale, bias = (
                np.asarray(array, np.float64)[:, None, None]
                for array in (running.mean, running.var, *map(weights["norm"].get, NORM_LEAVES))
            )
            x = np.maximum(0, (x - mean) / np.sqrt(var + 1e-5) * scale + bias)
        expected = x.mean((1, 2))
        # Float32 sums of up to 1,152 terms, four in a row.
        np.testing.assert_allclose(features[i], expected, rtol=1e-4, atol=1e-5)
        head = params["head"]
        expected = expected @ np.asarray(head["kernel"]) + head["bias"]
        np.testing.assert_allclose(logits[i], expected, rtol=1e-4, atol=1e-5)


NORM_LEAVES = ("scale", "bias")


def test_evaluation_looks_at_clips_one_by_one_and_keeps_the_statistics():
    params, stats = random_classifier(SMALL)
    mels = random_mels(3)
    logits, _, new = classify_small(params, stats, mels)
    alone = [classify_small(params, stats, mels[i : i + 1])[0][0] for i in range(3)]
    # Products of other shapes sum in another order; the logits are of order 100.
    np.testing.assert_allclose(logits, np.stack(alone), rtol=1e-4, atol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, new, stats)


def test_learns_to_tell_tones_apart_by_their_band():
    """Gradients reach everything: 20 steps separate ten classes, also by running statistics."""
    labels = np.arange(10)
    mels = np.random.default_rng(0).uniform(-80, -60, (10, 32, 32))
    mels[labels, 3 * labels] = -10
    mels = jnp.float32(mels)

    @jax.jit
    def step(params, stats):
        def loss(params):
            logits, _, new = classify(SMALL, params, stats, mels, train=True)
            log_p = jax.nn.log_softmax(logits)
            return -jnp.mean(log_p[labels, labels]), new

        (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)
        return params, new, value, gradient

    params, stats = random_classifier(SMALL)
    for _ in range(20):
        params, stats, value, gradient = step(params, stats)
    assert value < 0.1
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    logits, _, _ = classify_small(params, stats, mels)
    np.testing.assert_array_equal(np.argmax(logits, -1), labels)


def test_initial_variances_are_those_of_the_published_code():
    params, stats = init_classifier(SMALL, jax.random.key(0))
    for name, outputs in (("conv_1", 64), ("conv_2", 128), ("conv_3", 192)):
        # Kaiming, by the outputs of a kernel; 18,432 draws or more: 1 % is a standard error.
        variance = np.var(params[name]["conv"]["kernel"])
        assert variance == pytest.approx(2 / (9 * outputs), rel=0.05)
    assert np.var(params["head"]["kernel"]) == pytest.approx(2 / 192, rel=0.15)  # 1,920 draws.
    for running in stats.values():
        assert not running.mean.any() and (running.var == 1).all()
