"""What all sequence models promise, whatever is inside."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.experiment import make_experiment, named_config, named_configs
from poolformer_jax.layers.mixer_config import LRUConfig, RGLRUConfig
from poolformer_jax.models.config import SequenceModelConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.registry import MODELS
from poolformer_jax.models.sashimi.config import SashimiConfig
from poolformer_jax.models.sequence_model import batch_axes, count_params
from poolformer_jax.ops.draw import Draw
from tests.models.random_models import random_params

# One for every kind, of three classes; log-probabilities depend on every code and label.
CONFIGS = {
    "poolformer": PoolformerConfig(
        num_codes=16,
        initial_code=8,
        num_classes=3,
        width=4,
        mixer=RGLRUConfig(recurrent_width=8, num_gate_blocks=2),
        pool_factors=(2, 2),
        layers=(1, 0, 1),
        scan="sequential",
    ),
    "sashimi": SashimiConfig(
        num_codes=16,
        initial_code=8,
        num_classes=3,
        width=4,
        mixer=LRUConfig(recurrent_width=8),
        pool_factors=(2, 2),
        layers=(1, 1, 1),
        scan="sequential",
    ),
}
# The systems of configs/baselines/, as wide as their heads want.
BASELINES = {
    name: dataclasses.replace(
        make_experiment(named_config(f"{name}:digits")).model,
        num_codes=16,
        initial_code=8,
        num_classes=3,
        width=16,
        pool_factors=(2, 2),
        layers=(1, 1, 1),
        remat="none",
    )
    for name in named_configs()
    if name.startswith("baselines/")
}
OFTEN = ("baselines/attention_local", "baselines/poolformer_mamba")
CLIPS = 2
LABELS = np.array([0, 2])
# Float32 through a few residual blocks, for logits of order 10.
TOLERANCE = 1e-4


def test_every_model_is_tested():
    assert CONFIGS.keys() == MODELS.keys()
    assert all(type(CONFIGS[kind]) is MODELS[kind] for kind in MODELS)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A model, its parameters, and what it does with them, compiled."""

    config: SequenceModelConfig
    model: object
    params: dict
    codes: jnp.ndarray  # Two chunks.
    read: object  # (codes, state) -> (log-probabilities, state)
    step: object
    draw: object  # (noise, state, draw=) -> (codes, log-probabilities, state)


def make_case(config):
    model, params = config.build(), random_params(config)
    steps = 2 * model.chunk_multiple
    codes = np.random.default_rng(0).integers(model.num_codes, size=(CLIPS, steps))
    return Case(
        config=config,
        model=model,
        params=params,
        codes=jnp.asarray(codes, jnp.int32),
        read=functools.partial(jax.jit(model.log_probs), params),
        step=functools.partial(jax.jit(model.step_log_probs), params),
        draw=functools.partial(jax.jit(model.draw, static_argnames="draw"), params),
    )


@pytest.fixture(scope="module", params=CONFIGS)
def case(request):
    return make_case(CONFIGS[request.param])


# What draws is the same around every network.
once = pytest.mark.parametrize(
    "case",
    [
        pytest.param(kind, marks=() if kind == "poolformer" else pytest.mark.nightly)
        for kind in CONFIGS
    ],
    indirect=True,
)


def read_steps(case, codes, state):
    log_probs = np.zeros(codes.shape, np.float32)
    for t in range(codes.shape[1]):
        log_probs[:, t], state = case.step(codes[:, t], state)
    return log_probs, state


def keys_at(time, clips=CLIPS):
    return jax.random.split(jax.random.fold_in(jax.random.key(1), time), clips)


def test_sizes_are_those_of_the_configuration(case):
    config = case.config
    for field in ("num_codes", "num_classes", "chunk_multiple"):
        assert getattr(case.model, field) == getattr(config, field)
    # Programs are compiled once for equal models.
    assert case.model == config.build() and hash(case.model) == hash(config.build())


def test_initial_parameters_are_float32_and_follow_the_key(case):
    shapes = jax.eval_shape(case.model.init_params, jax.random.key(0))
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(shapes), strict=True)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert count_params(case.model) == sum(leaf.size for leaf in leaves)
    # Not all others are drawn: some start from constants.
    kernels = [i for i, path in enumerate(paths) if path[-1].key == "kernel"]
    largest = max(kernels, key=lambda i: leaves[i].size)

    @jax.jit  # Draws that are not looked at are not compiled.
    def draw_largest(key):
        return jax.tree.leaves(case.model.init_params(key))[largest]

    one, other = (draw_largest(jax.random.key(seed)) for seed in (0, 1))
    assert not np.any(one == other)


@once
def test_probabilities_of_all_codes_add_up_to_one(case):
    """Of the code after a chunk."""
    _, state = case.read(case.codes, case.model.init_state(CLIPS, LABELS))
    every = [case.step(jnp.full(CLIPS, code), state)[0] for code in range(case.model.num_codes)]
    np.testing.assert_allclose(np.exp(every).sum(axis=0), 1.0, rtol=1e-5)


def test_codes_are_predicted_and_drawn_from_what_was_read_before(case):
    start, rng = case.model.init_state(CLIPS, LABELS), np.random.default_rng(1)
    inputs = jnp.asarray(rng.integers(case.model.num_codes, size=case.codes.shape), jnp.int32)
    found, _ = case.read(case.codes, start, inputs=inputs)
    draw = functools.partial(case.model.draw_in_parallel, case.params, inputs, start)
    keys = jax.random.split(jax.random.key(2), 400)
    drawn = np.asarray(jax.jit(jax.vmap(draw))(keys))
    for t in (0, 1, case.codes.shape[1] - 1):
        wanted, _ = case.read(inputs.at[:, t].set(case.codes[:, t]), start)
        np.testing.assert_allclose(found[:, t], wanted[:, t], atol=TOLERANCE)
        # The likeliest code is drawn as often as it should be, to four standard deviations.
        every = jax.vmap(lambda code, t=t: case.read(inputs.at[:, t].set(code), start)[0][:, t])
        p = np.exp(every(jnp.arange(case.model.num_codes)))
        likeliest, best = p.argmax(axis=0), p.max(axis=0)
        shares = np.mean(drawn[:, :, t] == likeliest, axis=0)
        assert np.all(abs(shares - best) <= 4 * np.sqrt(best * (1 - best) / 400))


def test_chunks_and_steps_equal_whole(case):
    """Compiled, so that a model cannot look where a chunk begins: at the start, or anywhere."""
    multiple, codes = case.model.chunk_multiple, case.codes
    start = case.model.init_state(CLIPS, LABELS, guided=True)  # Each with its label and without.
    whole, _ = case.read(codes, start)
    assert whole.shape == codes.shape and whole.dtype == jnp.float32
    for begin in range(multiple + 1):
        before, state = read_steps(case, codes[:, :begin], start)
        chunk, state = case.read(codes[:, begin : begin + multiple], state)
        after, _ = read_steps(case, codes[:, begin + multiple :], state)
        parts = np.concatenate([before, chunk, after], axis=1)
        np.testing.assert_allclose(parts, whole, atol=TOLERANCE)
    first, state = case.read(codes[:, :multiple], start)
    second, _ = case.read(codes[:, multiple:], state)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, atol=TOLERANCE)


def test_log_probabilities_see_only_codes_before(case):
    start = case.model.init_state(CLIPS, LABELS)
    whole, _ = case.read(case.codes, start)
    for t in range(case.codes.shape[1]):
        changed, _ = case.read(case.codes.at[:, t].set((case.codes[:, t] + 5) % 16), start)
        np.testing.assert_array_equal(changed[:, :t], whole[:, :t])
        assert np.all(changed[:, t:] != whole[:, t:])


@once
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_drawn_codes_have_the_log_probabilities_that_reading_gives_them(case, guidance):
    """Guidance changes what is drawn, not what is reported."""
    draw = Draw(guidance=guidance)
    start = state = case.model.init_state(CLIPS, LABELS, guided=guidance != 1.0)
    codes, log_probs = [], []
    for time in range(case.codes.shape[1]):
        code, log_prob, state = case.draw(case.model.noise(keys_at(time)), state, draw=draw)
        codes.append(code)
        log_probs.append(log_prob)
    codes = jnp.stack(codes, axis=1)
    expected, after = case.read(codes, start)
    np.testing.assert_allclose(np.stack(log_probs, axis=1), expected, atol=TOLERANCE)
    # Both states go on alike.
    ours, theirs = (case.step(case.codes[:, 0], one)[0] for one in (state, after))
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


@once
def test_guided_draw_follows_its_formula(case):
    """The likeliest code of u + w (c - u), with the label (c) and without (u)."""
    none = np.full(CLIPS, case.model.num_classes)
    state = case.model.init_state(CLIPS, LABELS, guided=True)
    _, state = case.read(case.codes, state)

    def log_probs_of_all(labels):
        _, plain = case.read(case.codes, case.model.init_state(CLIPS, labels))
        return np.stack(
            [case.step(jnp.full(CLIPS, code), plain)[0] for code in range(case.model.num_codes)], -1
        )

    c, u = log_probs_of_all(LABELS), log_probs_of_all(none)
    for weight in (0.0, 3.0):
        codes, _, _ = case.draw(
            case.model.noise(keys_at(0)), state, draw=Draw(temperature=0.0, guidance=weight)
        )
        np.testing.assert_array_equal(codes, np.argmax(u + weight * (c - u), axis=-1))


def test_labels_count_and_absent_means_none(case):
    def read(labels):
        return case.read(case.codes, case.model.init_state(CLIPS, labels))[0]

    none = read(np.full(CLIPS, case.model.num_classes))
    np.testing.assert_array_equal(read(None), none)
    labelled = read(LABELS)
    assert np.all(labelled != none)
    np.testing.assert_array_equal(read(jnp.array([0, 1]))[0], labelled[0])


def test_a_model_without_classes_refuses_labels(case):
    plain = dataclasses.replace(case.model.config, num_classes=0).build()
    for arguments in ({"labels": LABELS}, {"guided": True}):
        with pytest.raises(ValueError, match="the model has no classes: num_classes is 0"):
            plain.init_state(CLIPS, **arguments)


@pytest.mark.parametrize("guided", [False, True])
def test_batch_axes_are_those_that_grow_with_the_batch(case, guided):
    one, five = (jax.tree.leaves(case.model.init_state(clips, guided=guided)) for clips in (1, 5))
    for axis, small, large in zip(batch_axes(case.model), one, five, strict=True):
        grown = [n != m for n, m in zip(small.shape, large.shape, strict=True)]
        assert grown == [i == axis for i in range(large.ndim)]
        assert axis == -1 or large.shape[axis] == 5 * small.shape[axis]


def test_clips_do_not_meet(case):
    start = case.model.init_state(CLIPS, LABELS)
    together, _ = case.read(case.codes, start)
    other = case.codes.at[1].set(3)
    np.testing.assert_array_equal(case.read(other, start)[0][0], together[0])


def test_logits_that_are_not_finite_give_nan(case):
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), case.params)
    state = case.model.init_state(CLIPS, LABELS)
    _, log_probs, _ = case.draw.func(broken, case.model.noise(keys_at(0)), state, draw=Draw())
    assert np.all(np.isnan(log_probs))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in OFTEN else pytest.mark.nightly)
        for name in BASELINES
    ],
)
def test_baselines_keep_the_promises(name):
    """Those that depend on mixers and backbone."""
    case = make_case(BASELINES[name])
    test_chunks_and_steps_equal_whole(case)
    test_log_probabilities_see_only_codes_before(case)
    test_clips_do_not_meet(case)
    test_drawn_codes_have_the_log_probabilities_that_reading_gives_them(case, guidance=2.0)
    test_guided_draw_follows_its_formula(case)
