"""The whole model against the NumPy oracle, in one go, in chunks and step by step."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.poolformer.model import (
    Poolformer,
    batch_axes,
    init_params,
    init_state,
    observe,
)
from poolformer_jax.ops.categorical import excess_bits
from tests import oracle
from tests.models.random_models import (
    BATCH,
    EXAMPLES,
    random_codes,
    random_labels,
    random_options,
    random_params,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {
    "num_codes": 16,
    "initial_code": 8,
    "width": 4,
    "recurrent_width": 8,
    "num_gate_blocks": 2,
    "pool_factors": (2, 3),
    "layers": (1, 1, 1),
    "scan": "sequential",
}


def assert_close(actual, expected):
    """Float32 with up to 40 blocks of rounding, relative to the largest logit."""
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, atol=2e-5 * scale, rtol=0)


@functools.cache  # One compilation for all tests of a configuration.
def chunk_function(config):
    params = random_params(config)
    return jax.jit(functools.partial(Poolformer(config).apply, {"params": params}))


@functools.cache
def step_function(config):
    params = random_params(config)
    apply = functools.partial(Poolformer(config).apply, {"params": params}, method="step")
    return jax.jit(apply)


@settings(EXAMPLES, max_examples=8)
@given(options=random_options(), windows=st.integers(1, 3))
def test_random_models_equal_oracle(options, windows):
    config = PoolformerConfig(**options)
    params = random_params(config)
    codes = random_codes(config, windows * config.total_pool_factor)
    labels = random_labels(config)
    logits, _ = chunk_function(config)(codes, init_state(config, BATCH, labels))
    assert_close(logits, oracle.forward(config, params, np.asarray(codes), labels))


@settings(EXAMPLES, max_examples=3)
@given(options=random_options())
def test_random_models_stream(options):
    check_streaming(PoolformerConfig(**options))


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 3},
        {"temporal_convolution": True, "skip": "long", "width_growth": 2, "pool_groups": 2},
    ],
    ids=str,
)
def test_nested_models_stream(options):
    check_streaming(PoolformerConfig(**SMALL | options))


def check_streaming(config):
    """A chunk, as many single steps, and a chunk again give the logits of the whole."""
    params = random_params(config)
    total = config.total_pool_factor
    codes = random_codes(config, 4 * total)
    chunk, step = chunk_function(config), step_function(config)
    labels = random_labels(config)
    outputs, state = [], init_state(config, BATCH, labels)
    for part in (0, 1, 2, 3):
        here = codes[:, part * total : (part + 1) * total]
        if part in (0, 3):
            logits, state = chunk(here, state)
            outputs.append(logits)
        else:
            for t in range(total):
                logits, state = step(here[:, t], state)
                outputs.append(logits[:, None])
    assert int(state.time) == 4 * total
    whole = oracle.forward(config, params, np.asarray(codes), labels)
    assert_close(np.concatenate(outputs, axis=1), whole)


def test_chunks_of_any_multiple_equal_whole():
    config = PoolformerConfig(**SMALL)
    params = random_params(config)
    codes = random_codes(config, 24)
    chunk = chunk_function(config)
    whole = oracle.forward(config, params, np.asarray(codes))
    for sizes in ((6, 6, 6, 6), (12, 12), (6, 12, 6)):
        outputs, state, start = [], init_state(config, BATCH), 0
        for size in sizes:
            logits, state = chunk(codes[:, start : start + size], state)
            outputs.append(logits)
            start += size
        assert_close(np.concatenate(outputs, axis=1), whole)


def test_steps_from_the_start_equal_whole():
    config = PoolformerConfig(**SMALL)
    params = random_params(config)
    codes = random_codes(config, 18)
    step, state, outputs = step_function(config), init_state(config, BATCH), []
    for t in range(18):
        logits, state = step(codes[:, t], state)
        outputs.append(logits)
    assert_close(np.stack(outputs, axis=1), oracle.forward(config, params, np.asarray(codes)))


def test_predict_then_observe_is_a_step():
    config = PoolformerConfig(**SMALL)
    apply = functools.partial(Poolformer(config).apply, {"params": random_params(config)})
    predict = jax.jit(functools.partial(apply, method="predict"))
    step = step_function(config)
    codes, by_step, by_two = random_codes(config, 4), *[init_state(config, BATCH)] * 2
    for t in range(4):
        logits, by_step = step(codes[:, t], by_step)
        predicted, by_two = predict(by_two)
        by_two = observe(by_two, codes[:, t])
        np.testing.assert_allclose(predicted, logits, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(by_two), jax.tree.leaves(by_step), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"temporal_convolution": True}, pytest.param({"unet": False}, marks=pytest.mark.slow)],
    ids=str,
)
def test_causal_at_every_phase(options):
    """The derivative of logits t by backbone input s is exactly 0 for s > t, and only there."""
    config = PoolformerConfig(**SMALL | options)
    params = random_params(config)
    steps = 2 * config.total_pool_factor
    state = init_state(config, 1)

    def backbone(model, x):
        return model.head(model.backbone(x, state.backbone, state.time)[0])

    @jax.jit
    @jax.jacrev
    def jacobian(x):
        logits = Poolformer(config).apply({"params": params}, x[None], method=backbone)[0]
        return logits @ jnp.linspace(-1.0, 1.0, config.num_codes)

    x = jnp.float32(np.random.default_rng(2).normal(size=(steps, config.width)))
    reaches = np.any(np.asarray(jacobian(x)) != 0, axis=-1)  # [t of logits, s of input]
    np.testing.assert_array_equal(reaches, np.tril(np.ones((steps, steps), bool)))


@pytest.mark.slow
def test_a_code_changes_only_later_logits():
    config = PoolformerConfig(**SMALL)
    run = chunk_function(config)
    codes = random_codes(config, 12)
    logits, _ = run(codes)
    for t in range(12):
        changed, _ = run(codes.at[:, t].set((codes[:, t] + 5) % 16))
        np.testing.assert_array_equal(changed[:, : t + 1], logits[:, : t + 1])
        assert np.all(np.any(changed[:, t + 1 :] != logits[:, t + 1 :], axis=-1))


def test_inner_levels_run_once_per_window():
    config = PoolformerConfig(**SMALL)
    step, state = step_function(config), init_state(config, BATCH)
    codes = random_codes(config, 12)

    def changed(old, new):
        pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        return any(np.any(a != b) for a, b in pairs)

    for t in range(12):
        before, (_, state) = state, step(codes[:, t], state)
        old, new = before.backbone, state.backbone
        assert changed(old.pre, new.pre) and changed(old.post, new.post)
        assert changed(old.inner, new.inner) == (t % 2 == 1)
        assert changed(old.inner.inner, new.inner.inner) == (t % 6 == 5)


def test_inner_levels_are_behind_conditionals():
    """They are not computed and thrown away: one branch per level, nested."""
    config = PoolformerConfig(**SMALL)
    apply = functools.partial(Poolformer(config).apply, method="step")
    state, codes = init_state(config, BATCH), random_codes(config, 1)[:, 0]
    jaxpr = jax.make_jaxpr(apply)({"params": random_params(config)}, codes, state).jaxpr
    assert conditional_depth(jaxpr) == len(config.pool_factors)


def conditional_depth(jaxpr):
    depths = [0]
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)  # Closed or not.
                if hasattr(inner, "eqns"):
                    is_conditional = equation.primitive.name == "cond"
                    depths.append(conditional_depth(inner) + is_conditional)
    return max(depths)


def test_a_chunk_between_multiples_is_refused():
    config = PoolformerConfig(**SMALL)
    params = random_params(config)
    _, state = step_function(config)(random_codes(config, 1)[:, 0], init_state(config, 2))
    with pytest.raises(ValueError, match=r"cannot start at sample 1: .*factor 6; .*`step`"):
        Poolformer(config).apply({"params": params}, random_codes(config, 6), state)


def test_labels_are_checked_and_absent_means_none():
    config = PoolformerConfig(**SMALL | {"num_classes": 3})
    np.testing.assert_array_equal(init_state(config, 2).labels, [3, 3])
    with pytest.raises(ValueError, match="the model has no classes: num_classes is 0"):
        init_state(PoolformerConfig(**SMALL), 2, np.array([0, 1]))


def test_labels_whose_vectors_are_zero_change_nothing():
    plain = PoolformerConfig(**SMALL)
    config = PoolformerConfig(**SMALL | {"num_classes": 3})
    codes = random_codes(config, 6)
    params = random_params(config)

    def clear(path, leaf):
        return jnp.zeros_like(leaf) if "label" in jax.tree_util.keystr(path) else leaf

    def without(tree):
        if not isinstance(tree, dict):
            return tree
        return {name: without(part) for name, part in tree.items() if name != "label"}

    cleared = jax.tree_util.tree_map_with_path(clear, params)
    state = init_state(config, BATCH, np.array([0, 2]))
    labelled, _ = jax.jit(Poolformer(config).apply)({"params": cleared}, codes, state)
    logits, _ = jax.jit(Poolformer(plain).apply)({"params": without(params)}, codes)
    np.testing.assert_array_equal(labelled, logits)


def test_batch_axes_are_those_that_grow_with_the_batch():
    config = PoolformerConfig(**SMALL | {"num_classes": 3})
    axes, state = batch_axes(config), init_state(config, 5)
    for axis, leaf in zip(axes, jax.tree.leaves(state), strict=True):
        assert (axis == -1) == (leaf.ndim == 0)
        assert axis == -1 or leaf.shape[axis] == 5


def test_a_length_that_cannot_be_pooled_is_refused():
    config = PoolformerConfig(**SMALL)
    with pytest.raises(ValueError, match=r"sequence length 7 .*factor 6; pad to 12"):
        Poolformer(config).apply({"params": random_params(config)}, random_codes(config, 7))


@pytest.mark.slow
def test_bfloat16_activations_stay_near_float32():
    options = SMALL | {
        "width": 32,
        "recurrent_width": 64,
        "pool_factors": (3,),
        "layers": (1, 1),
    }
    config = PoolformerConfig(**options, dtype="bfloat16")
    shapes = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    codes = random_codes(config, 60)
    low, state = chunk_function(config)(codes)
    full, _ = chunk_function(PoolformerConfig(**options))(codes)
    assert low.dtype == jnp.float32
    assert state.backbone.post.recurrence.real.dtype == jnp.float32
    # Three layers of 2^-8 relative rounding each add up to about 1 % of the logits' deviation.
    assert np.sqrt(np.mean((low - full) ** 2)) < 0.02 * np.std(full)
    # Streaming is another program, in which XLA fuses, and so rounds, differently.
    step, state, outputs = step_function(config), init_state(config, BATCH), []
    assert state.backbone.partial.dtype == jnp.float32
    for t in range(60):
        logits, state = step(codes[:, t], state)
        outputs.append(logits)
    assert np.sqrt(np.mean((np.stack(outputs, axis=1) - low) ** 2)) < 0.02 * np.std(full)


@pytest.mark.slow
def test_baseline_compiles_in_90_seconds():
    """Forward and backward of the published model with the sequential scan, at full length."""
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_enable_compilation_cache", False)
    config = PoolformerConfig(scan="sequential", platform="cpu")
    codes = jnp.zeros((1, 16000), jnp.int32)

    def loss(params):
        logits, _ = Poolformer(config).apply({"params": params}, codes)
        return jnp.sum(excess_bits(logits, codes, lengths=jnp.asarray([16000])))

    shapes = jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))
    start = time.perf_counter()
    lowered = jax.jit(jax.value_and_grad(loss)).lower(shapes)
    traced = time.perf_counter()
    lowered.compile()
    end = time.perf_counter()
    print(f"baseline: {traced - start:.1f} s to trace, {end - traced:.1f} s to compile")
    assert end - start < 90
