"""The whole model against the NumPy oracle, in one go, in chunks and step by step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from poolformer_jax.layers.mixer_config import LRUConfig, RGLRUConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.poolformer.model import PoolformerNetwork
from tests import oracle
from tests.models.random_models import (
    BATCH,
    EXAMPLES,
    random_codes,
    random_labels,
    random_options,
    random_params,
)

SMALL = {
    "num_codes": 16,
    "initial_code": 8,
    "width": 4,
    "mixer": RGLRUConfig(recurrent_width=8, num_gate_blocks=2),
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
    """From (codes, state) to (logits, state)."""
    return jax.jit(functools.partial(config.build().logits, random_params(config)))


@functools.cache
def step_function(config):
    """The same for one code of each clip."""
    variables = {"params": random_params(config)}

    @jax.jit
    def step(codes, state):
        logits, state = PoolformerNetwork(config).apply(variables, state, method="predict")
        return logits, dataclasses.replace(state, previous=codes)

    return step


@pytest.mark.nightly
@settings(EXAMPLES, max_examples=10)
@given(options=random_options())
def test_random_models_equal_oracle(options):
    check_against_oracle(PoolformerConfig(**options))


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 3},
        {
            "mixer": LRUConfig(recurrent_width=6),
            "temporal_convolution": True,
            "skip": "long",
            "width_growth": 2,
            "pool_groups": 2,
        },
        {
            "mixer": RGLRUConfig(recurrent_width=8, num_gate_blocks=2, complex=False),
            "unet": False,
            "gating": False,
            "norm": "rms_norm",
            "embedding": "mlp",
        },
    ],
    ids=["labels", "lru", "real"],
)
def test_nested_models_equal_oracle(options):
    check_against_oracle(PoolformerConfig(**SMALL | options))


def check_against_oracle(config):
    """Chunks and single steps, in and out of phase, give the logits of the whole."""
    total = config.chunk_multiple
    codes, labels = random_codes(config, 4 * total), random_labels(config)
    chunk, step = chunk_function(config), step_function(config)
    outputs, state, t = [], config.build().init_state(BATCH, labels), 0
    for steps in (0, total // 2, total - total // 2):
        for _ in range(steps):
            logits, state = step(codes[:, t], state)
            outputs.append(logits[:, None])
            t += 1
        logits, state = chunk(codes[:, t : t + total], state)
        outputs.append(logits)
        t += total
    assert t == 4 * total
    assert total <= int(state.position) < 2 * total + 1  # Not a clock that overflows.
    whole = oracle.forward(config, random_params(config), np.asarray(codes), labels)
    assert_close(np.concatenate(outputs, axis=1), whole)


@pytest.mark.nightly
def test_chunks_of_other_multiples_equal_whole():
    config = PoolformerConfig(**SMALL)
    codes, chunk = random_codes(config, 30), chunk_function(config)
    outputs, state, start = [], config.build().init_state(BATCH), 0
    for size in (6, 18, 6):
        logits, state = chunk(codes[:, start : start + size], state)
        outputs.append(logits)
        start += size
    whole = oracle.forward(config, random_params(config), np.asarray(codes))
    assert_close(np.concatenate(outputs, axis=1), whole)


@pytest.mark.nightly  # Of any model, `test_chunks_and_steps_equal_whole` shows it.
def test_steps_from_the_start_equal_whole():
    config = PoolformerConfig(**SMALL)
    codes, step = random_codes(config, 18), step_function(config)
    outputs, state = [], config.build().init_state(BATCH)
    for t in range(18):
        logits, state = step(codes[:, t], state)
        outputs.append(logits)
    whole = oracle.forward(config, random_params(config), np.asarray(codes))
    assert_close(np.stack(outputs, axis=1), whole)


@pytest.mark.parametrize(
    "options",
    [{"temporal_convolution": True}, pytest.param({"unet": False}, marks=pytest.mark.nightly)],
    ids=str,
)
def test_causal_at_every_phase(options):
    """The derivative of logits t by backbone input s is exactly 0 for s > t, and only there."""
    config = PoolformerConfig(**SMALL | options | {"layers": (1, 0, 1)})
    variables = {"params": random_params(config)}
    steps = 2 * config.chunk_multiple
    state = config.build().init_state(1)

    def backbone(network, x):
        return network.head(network.backbone(x, state.backbone, state.position)[0])

    @jax.jit
    @jax.jacrev
    def jacobian(x):
        logits = PoolformerNetwork(config).apply(variables, x[None], method=backbone)[0]
        return logits @ jnp.linspace(-1.0, 1.0, config.num_codes)

    x = jnp.float32(np.random.default_rng(2).normal(size=(steps, config.width)))
    reaches = np.any(np.asarray(jacobian(x)) != 0, axis=-1)  # [t of logits, s of input]
    np.testing.assert_array_equal(reaches, np.tril(np.ones((steps, steps), bool)))


@pytest.mark.slow
def test_a_code_changes_only_later_logits():
    config = PoolformerConfig(**SMALL)
    run, start = chunk_function(config), config.build().init_state(BATCH)
    codes = random_codes(config, 12)
    logits, _ = run(codes, start)
    for t in range(12):
        changed, _ = run(codes.at[:, t].set((codes[:, t] + 5) % 16), start)
        np.testing.assert_array_equal(changed[:, : t + 1], logits[:, : t + 1])
        assert np.all(np.any(changed[:, t + 1 :] != logits[:, t + 1 :], axis=-1))


def test_inner_levels_run_once_per_window():
    config = PoolformerConfig(**SMALL)
    step, state = step_function(config), config.build().init_state(BATCH)
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
    model, codes = config.build(), random_codes(config, 1)[:, 0]
    step = jax.make_jaxpr(model.step_log_probs)
    jaxpr = step(random_params(config), codes, model.init_state(BATCH)).jaxpr
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


def test_chunks_that_cannot_be_pooled_are_refused():
    config = PoolformerConfig(**SMALL)
    model, params, state = config.build(), random_params(config), config.build().init_state(BATCH)
    with pytest.raises(ValueError, match=r"sequence length 7 .* of 6, the .*; use 6 or 12"):
        model.log_probs(params, random_codes(config, 7), state)


def test_the_key_of_dropout_reaches_the_layers():
    config = PoolformerConfig(**SMALL | {"pool_factors": (), "layers": (1,), "dropout": 0.5})
    model, codes = config.build(), random_codes(config, 2)

    def draws(key):
        run = functools.partial(model.log_probs, state=model.init_state(BATCH), dropout_key=key)
        return "random_bits" in str(jax.make_jaxpr(run)(random_params(config), codes))

    assert draws(jax.random.key(0)) and not draws(None)


@pytest.mark.parametrize(
    ("unet", "blocks"),
    [(True, (5, 9, 6)), pytest.param(False, (3, 5, 6), marks=pytest.mark.nightly)],
)
def test_levels_are_drawn_by_their_number_of_blocks_and_up_to_the_maximal_phase(unet, blocks):
    config = PoolformerConfig(
        width=32,
        mixer=RGLRUConfig(recurrent_width=64, num_gate_blocks=8, max_phase=1.5),
        pool_factors=(3, 2),
        layers=(1, 2, 3),
        unet=unet,
    )

    @jax.jit  # Draws that are not looked at are not compiled.
    def draw(key):
        leaves = jax.tree_util.tree_leaves_with_path(config.build().init_params(key)["backbone"])
        named = {tuple(part.key for part in path): leaf for path, leaf in leaves}
        ends = ("theta",), ("merge", "projection", "kernel"), ("up_pool", "kernel")
        return [{n: named[n] for n in named if n[-len(end) :] == end} for end in ends]

    thetas, projections, up_pools = draw(jax.random.key(0))
    stacks = 5 if unet else 3
    assert (len(thetas), len(projections), len(up_pools)) == (stacks, 2 * stacks, 2)
    for names, kernel in (projections | up_pools).items():
        inputs = kernel.shape[-2] * (kernel.shape[0] if names in up_pools else 1)
        expected = 1 / blocks[names.count("inner")] / inputs
        # At least 64 numbers, from this key; another number of blocks is off by 1.5 or more.
        assert np.var(kernel) == pytest.approx(expected, rel=0.3), names
    for names, theta in thetas.items():
        assert 0.8 * 1.5 < theta.max() <= 1.5, names


@pytest.mark.slow
def test_bfloat16_activations_stay_near_float32():
    options = SMALL | {
        "width": 32,
        "mixer": RGLRUConfig(recurrent_width=64, num_gate_blocks=2),
        "pool_factors": (3,),
        "layers": (1, 1),
    }
    config = PoolformerConfig(**options, dtype="bfloat16")
    model = config.build()
    shapes = jax.eval_shape(model.init_params, jax.random.key(0))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
    codes, start = random_codes(config, 60), model.init_state(BATCH)
    low, state = chunk_function(config)(codes, start)
    full_config = PoolformerConfig(**options)
    full, _ = chunk_function(full_config)(codes, full_config.build().init_state(BATCH))
    assert low.dtype == jnp.float32
    assert state.backbone.post.mixer.real.dtype == jnp.float32
    # Three layers of 2^-8 relative rounding each add up to about 1 % of the logits' deviation.
    assert np.sqrt(np.mean((low - full) ** 2)) < 0.02 * np.std(full)
    # Streaming is another program, in which XLA fuses, and so rounds, differently.
    step, state, outputs = step_function(config), start, []
    assert state.backbone.partial.dtype == jnp.float32
    for t in range(60):
        logits, state = step(codes[:, t], state)
        outputs.append(logits)
    assert np.sqrt(np.mean((np.stack(outputs, axis=1) - low) ** 2)) < 0.02 * np.std(full)
