"""Labels: learnt in training, drawn with and without guidance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.models.poolformer.model import Poolformer, init_state
from poolformer_jax.sampling.streaming import generate
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.step import make_train_step
from tests.training.tiny import LENGTH, MODEL, TRAIN

LABELLED = dataclasses.replace(MODEL, num_classes=3)
RECIPE = dataclasses.replace(TRAIN, label_dropout=0.2)
KEY = jax.random.key(1)


def make_batch(index, batch_size=24):
    """Clips that rise by 1, 2 or 3 at each sample, in 60 % of them by their label plus 1."""
    rng = np.random.default_rng(index)
    labels = rng.integers(3, size=batch_size)
    start = rng.integers(16, size=(batch_size, 1))
    other = rng.integers(1, 3, size=(batch_size, LENGTH - 1)) * (
        rng.random((batch_size, LENGTH - 1)) > 0.6
    )
    rise = (labels[:, None] + other) % 3 + 1
    tokens = np.concatenate([start, start + np.cumsum(rise, axis=1)], axis=1) % 16
    return {
        "tokens": tokens.astype(np.int32),
        "lengths": np.full(batch_size, LENGTH, np.int32),
        "labels": labels.astype(np.int32),
    }


@pytest.fixture(scope="module")
def trained():
    state = jax.jit(lambda: init_train_state(LABELLED, RECIPE))()
    step = jax.jit(make_train_step(LABELLED, RECIPE))
    for index in range(800):
        state, _ = step(state, jax.tree.map(jnp.asarray, make_batch(index)))
    return state.ema_params


def bits(params, batch, labels):
    state = init_state(LABELLED, len(batch["tokens"]), labels)
    tokens = jnp.asarray(batch["tokens"])
    logits, _ = jax.jit(Poolformer(LABELLED).apply)({"params": params}, tokens, state)
    table = np.asarray(jax.nn.log_softmax(logits)) / np.log(2)
    return -np.take_along_axis(table, batch["tokens"][..., None], axis=-1).mean()


def test_the_label_tells_the_model_what_comes(trained):
    batch = make_batch(100, batch_size=200)
    right = bits(trained, batch, batch["labels"])
    without = bits(trained, batch, None)
    wrong = bits(trained, batch, (batch["labels"] + 1) % 3)
    assert right < without - 0.05 and without < wrong


def share_of_label(params, label, **options):
    codes, _ = generate(LABELLED, params, KEY, 64, LENGTH, labels=np.full(64, label), **options)
    return np.mean(np.diff(codes, axis=1) % 16 == label + 1)


def test_a_label_draws_its_class_and_guidance_more_so(trained):
    for label in range(3):
        plain = share_of_label(trained, label)
        assert plain > 0.4  # 0.6 in the data, 1 / 3 without labels; 704 draws deviate by 0.02.
        assert share_of_label(trained, label, guidance=2.0) > plain + 0.05


@pytest.mark.slow
def test_guided_draw_follows_its_formula(trained):
    """Codes come from u + w (c - u); the log-probabilities are those of c."""
    clips, length, weight = 2, 8, 2.0
    labels = np.array([0, 2])
    codes, log_probs = generate(
        LABELLED, trained, KEY, clips, length, labels=labels, guidance=weight
    )
    with_label, without = (
        Poolformer(LABELLED).apply(
            {"params": trained}, jnp.asarray(codes), init_state(LABELLED, clips, given)
        )[0]
        for given in (labels, None)
    )
    for clip in range(clips):
        for t in range(length):
            c, u = with_label[clip, t], without[clip, t]
            key = jax.random.fold_in(jax.random.fold_in(KEY, clip), t)
            assert codes[clip, t] == jax.random.categorical(key, u + weight * (c - u))
            expected = float(jax.nn.log_softmax(c)[codes[clip, t]])
            assert log_probs[clip, t] == pytest.approx(expected, abs=2e-4)


@pytest.mark.slow
def test_guided_clips_continue_a_prompt(trained):
    labels = np.array([1, 1])
    options = {"labels": labels, "guidance": 2.0}
    whole, log_probs = generate(LABELLED, trained, KEY, 2, 11, **options)
    again, primed = generate(LABELLED, trained, KEY, 2, 11, prompt=whole[:, :5], **options)
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_allclose(primed, log_probs, atol=2e-4)


@pytest.mark.slow
def test_without_guidance_or_label_the_model_is_unconditional(trained):
    none = np.full(4, 3)
    codes, _ = generate(LABELLED, trained, KEY, 4, 10)
    explicit, _ = generate(LABELLED, trained, KEY, 4, 10, labels=none)
    np.testing.assert_array_equal(codes, explicit)


@pytest.mark.slow
def test_labels_are_withheld_at_the_rate(trained):
    """A step that withholds (almost) all labels has the loss of a model without."""
    recipe = dataclasses.replace(RECIPE, label_dropout=0.9999)
    state = jax.jit(lambda: init_train_state(LABELLED, recipe))()
    state = dataclasses.replace(state, params=trained)
    batch = make_batch(7)
    _, metrics = jax.jit(make_train_step(LABELLED, recipe))(state, jax.tree.map(jnp.asarray, batch))
    assert metrics["bits_per_sample"] == pytest.approx(bits(trained, batch, None), rel=1e-5)


def test_faults_of_the_guide_are_noticed(trained):
    """Logits without the label are not reported; that they are not finite must be."""
    broken = jax.tree.map(jnp.copy, trained)
    table = broken["backbone"]["label"]["table"]
    broken["backbone"]["label"]["table"] = table.at[3].set(jnp.nan)
    labels = np.array([0, 1])
    generate(LABELLED, broken, KEY, 2, 4, labels=labels)
    with pytest.raises(FloatingPointError, match="clip 0 are not finite at sample 0"):
        generate(LABELLED, broken, KEY, 2, 4, labels=labels, guidance=2.0)


@pytest.mark.parametrize("labels", [np.array([0]), np.array([0, 4]), np.array([0.0, 1.0])])
def test_labels_that_do_not_fit(trained, labels):
    with pytest.raises(ValueError, match=r"must be 2 whole numbers, 0 to 2, or 3 for none"):
        generate(LABELLED, trained, KEY, 2, 4, labels=labels)
