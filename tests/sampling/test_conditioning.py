"""Labels: learnt in training, drawn with and without guidance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.ops.draw import Draw
from poolformer_jax.sampling.streaming import generate
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.step import make_train_step
from tests.training.tiny import LENGTH, TRAIN, make_objective
from tests.training.tiny import MODEL as CONFIG

LABELLED = dataclasses.replace(CONFIG, num_classes=3)
MODEL = LABELLED.build()
KEY = jax.random.key(1)
CLIPS = 64  # Drawn at once in all tests: one program without guidance, and one with.
GUIDED = Draw(guidance=2.0)


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
    objective = make_objective(LABELLED, label_dropout=0.2)
    state = jax.jit(lambda: init_train_state(objective, TRAIN))()
    step = jax.jit(make_train_step(objective, TRAIN))
    for index in range(800):
        state, _ = step(state, make_batch(index))
    return state.ema_params


def bits(params, batch, labels):
    state = MODEL.init_state(len(batch["tokens"]), labels)
    log_probs, _ = jax.jit(MODEL.log_probs)(params, batch["tokens"], state)
    return -float(jnp.mean(log_probs)) / np.log(2)


def test_the_label_tells_the_model_what_comes(trained):
    batch = make_batch(1000, batch_size=200)
    right = bits(trained, batch, batch["labels"])
    without = bits(trained, batch, None)
    wrong = bits(trained, batch, (batch["labels"] + 1) % 3)
    assert right < without - 0.05 and without < wrong


def draw_label(params, label, draw=None):
    labels = np.full(CLIPS, label)
    return generate(MODEL, params, KEY, CLIPS, LENGTH, labels=labels, draw=draw)


def test_a_label_draws_its_class_and_guidance_more_so(trained):
    for label in range(3):
        plain, guided = (
            np.mean(np.diff(draw_label(trained, label, draw).codes, axis=1) % 16 == label + 1)
            for draw in (None, GUIDED)
        )
        assert plain > 0.4  # 0.6 in the data, 1 / 3 without labels; 704 draws deviate by 0.02.
        assert guided > plain + 0.05


def test_guided_draw_follows_its_formula(trained):
    """Codes come from u + w (c - u); the log-probabilities are those of c."""
    codes, log_probs = draw_label(trained, 2, GUIDED)
    run = jax.jit(MODEL.logits)
    c, u = (
        run(trained, jnp.asarray(codes), MODEL.init_state(CLIPS, labels))[0]
        for labels in (np.full(CLIPS, 2), None)
    )
    for clip in (0, 1):
        for t in range(LENGTH):
            key = jax.random.fold_in(jax.random.fold_in(KEY, clip), t)
            drawn_from = u[clip, t] + 2.0 * (c[clip, t] - u[clip, t])
            assert codes[clip, t] == jax.random.categorical(key, drawn_from)
    table = np.asarray(jax.nn.log_softmax(c))
    expected = np.take_along_axis(table, codes[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(log_probs, expected, atol=2e-4)


def test_guided_clips_continue_a_prompt(trained):
    whole, log_probs = draw_label(trained, 1, GUIDED)
    again, primed = generate(
        MODEL,
        trained,
        KEY,
        CLIPS,
        LENGTH + 3,  # As many samples to draw: the same program.
        labels=np.full(CLIPS, 1),
        prompt=whole[:, :3],
        draw=GUIDED,
    )
    np.testing.assert_array_equal(again[:, :LENGTH], whole)
    np.testing.assert_allclose(primed[:, :LENGTH], log_probs, atol=2e-4)


def test_without_a_label_the_model_is_unconditional(trained):
    codes, _ = generate(MODEL, trained, KEY, CLIPS, LENGTH)
    np.testing.assert_array_equal(codes, draw_label(trained, 3).codes)


@pytest.mark.slow
def test_labels_are_withheld_at_the_rate(trained):
    """A step that withholds (almost) all labels has the loss of a model without."""
    objective = make_objective(LABELLED, label_dropout=0.9999)
    state = jax.jit(lambda: init_train_state(objective, TRAIN))()
    state = dataclasses.replace(state, params=trained)
    batch = make_batch(7)
    _, metrics = jax.jit(make_train_step(objective, TRAIN))(state, batch)
    assert metrics["bits_per_sample"] == pytest.approx(bits(trained, batch, None), rel=1e-5)


def test_faults_of_the_guide_are_noticed(trained):
    """Logits without the label are not reported; that they are not finite must be."""
    broken = jax.tree.map(jnp.copy, trained)
    table = broken["backbone"]["label"]["table"]
    broken["backbone"]["label"]["table"] = table.at[3].set(jnp.nan)
    draw_label(broken, 1)
    with pytest.raises(FloatingPointError, match="clip 0 are not finite at sample 0"):
        draw_label(broken, 1, GUIDED)


@pytest.mark.parametrize("labels", [np.array([0]), np.array([0, 4]), np.array([0.0, 1.0])])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match=r"must be 2 whole numbers, 0 to 2, or 3 for none"):
        generate(MODEL, {}, KEY, 2, 4, labels=labels)
