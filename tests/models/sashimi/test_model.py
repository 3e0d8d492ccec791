"""SaShiMi against its equations, and against the sizes that were published."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.config_checks import make_config
from poolformer_jax.layers.mixer_config import (
    AttentionConfig,
    LRUConfig,
    MambaConfig,
    RGLRUConfig,
    S4Config,
    S4DConfig,
)
from poolformer_jax.models.config import SequenceModelConfig
from poolformer_jax.models.sashimi.config import SashimiConfig
from poolformer_jax.models.sequence_model import count_params
from tests.models.random_models import random_codes, random_labels, random_params
from tests.models.sashimi import oracle

LRU = LRUConfig(recurrent_width=8)
UNET = SashimiConfig(
    num_codes=16,
    initial_code=8,
    width=4,
    pool_factors=(2, 3),
    layers=(2, 1, 2),
    mixer=LRU,
    scan="sequential",
)
OPTIONS = {
    "unet": {},
    "autoregressive": {"unet": False, "pool_weight_norm": True},
    "labels": {"num_classes": 3},
    "mamba": {"mixer": MambaConfig(state_size=3), "mlp_expansion": 0, "norm": "rms_norm"},
    "s4": {"mixer": S4Config(state_size=8)},
    "s4d": {"mixer": S4DConfig(state_size=8, tied=True), "unet": False},
    "centre": {
        "center_mixer": RGLRUConfig(recurrent_width=8, num_gate_blocks=2),
        "center_mlp_expansion": 1,
        "norm": "layer_norm",
    },
    "empty_stages": {"layers": (1, 0, 0)},
}
CONFIGS = {name: dataclasses.replace(UNET, **options) for name, options in OPTIONS.items()}


OFTEN = ("autoregressive", "s4", "centre")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config, id=name, marks=() if name in OFTEN else pytest.mark.nightly)
        for name, config in CONFIGS.items()
    ],
)
def test_logits_equal_oracle(config):
    model, params = config.build(), random_params(config)
    codes, labels = random_codes(config, 18), random_labels(config)
    state = model.init_state(len(codes), labels)
    ours, _ = jax.jit(model.logits)(params, codes, state)
    expected = oracle.forward(config, params, np.asarray(codes), labels)
    assert np.std(expected) > 0.5
    # Float32 rounding through a dozen residual branches.
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.nightly
def test_stepped_and_cut_logits_of_s4_equal_the_whole():
    steps = 80  # A chunk of S4 and a part of one.
    config = dataclasses.replace(UNET, mixer=S4Config(), pool_factors=(4, 4), layers=(1, 1, 1))
    model, params = config.build(), random_params(config)
    codes = random_codes(config, steps)
    read = jax.jit(model.log_probs)
    whole, _ = read(params, codes, model.init_state(len(codes)))
    assert np.std(whole) > 0.5

    def read_in_parts(sizes):
        parts, state, start = [], model.init_state(len(codes)), 0
        for size in sizes:
            part, state = read(params, codes[:, start : start + size], state)
            parts.append(part)
            start += size
        assert start == steps
        return np.concatenate(parts, axis=1)

    step = jax.jit(model.step_log_probs)
    stepped, state = [], model.init_state(len(codes))
    for t in range(steps):
        log_probs, state = step(params, codes[:, t], state)
        stepped.append(log_probs)
    # Float32 rounding of sums in another order, through a few blocks.
    for ours in (read_in_parts((16, 32, *[16] * (steps // 16 - 3))), np.stack(stepped, axis=1)):
        np.testing.assert_allclose(ours, whole, atol=1e-4)


@pytest.mark.nightly
def test_gradients_do_not_depend_on_what_is_recomputed():
    """Other ways to recompute are those of the blocks, which all backbones share."""
    codes = random_codes(UNET, 12)

    def gradient(config):
        model, params = config.build(), random_params(UNET)

        def loss(params):
            return jnp.mean(model.log_probs(params, codes, model.init_state(len(codes)))[0])

        return jax.jit(jax.grad(loss))(params)

    ours = gradient(dataclasses.replace(UNET, remat="block"))
    for a, b in zip(*map(jax.tree.leaves, (ours, gradient(UNET))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_inner_stages_are_heard_one_window_late():
    """The U-Net's pools delay by a whole window: up to there the logits are those of stage 0."""
    model, params = UNET.build(), random_params(UNET)
    codes = random_codes(UNET, 18)

    def logits(params):
        return jax.jit(model.logits)(params, codes, model.init_state(len(codes)))[0]

    other = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + float("inner" in jax.tree_util.keystr(path)), params
    )
    same = np.all(logits(params) == logits(other), axis=(0, 2))
    np.testing.assert_array_equal(same, np.arange(18) < UNET.pool_factors[0])


def test_weight_normalisation_leaves_the_initial_kernels_as_drawn():
    config = dataclasses.replace(CONFIGS["autoregressive"], layers=(0, 0, 1))
    params = config.build().init_params(jax.random.key(0))
    plain = dataclasses.replace(config, pool_weight_norm=False).build()
    codes, state = random_codes(config, 12), plain.init_state(2)
    ours, _ = jax.jit(config.build().logits)(params, codes, state)
    theirs, _ = jax.jit(plain.logits)(params, codes, state)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (8, 8)}, r"layers \(8, 8\) has 2 entries for 2 pool_factors \(4, 4\); give 3"),
        ({"layers": (8, -1, 8)}, r"layers \(8, -1, 8\) must not be negative"),
        ({"pool_factors": (4, 1)}, r"pool_factors \(4, 1\) must all be at least 2"),
        ({"width": 0}, r"width 0 must be at least 1"),
        ({"center_mlp_expansion": -1}, r"center_mlp_expansion -1 must be at least 0"),
        ({"mixer": {"kind": "s5"}}, r"mixer.kind is 's5'; known: "),
        ({"center_mixer": {"kind": "s5"}}, r"center_mixer.kind is 's5'; known: "),
        ({"center_mixer": 3}, r"center_mixer is 3; it must be MixerConfig or None"),
    ],
)
def test_a_bad_value_is_named_with_a_fix(options, message):
    with pytest.raises(ValueError, match=message):
        make_config(SequenceModelConfig, {"kind": "sashimi"} | options, name="model")


TIED = S4Config(tied=True)
AUTOREGRESSIVE = {"unet": False, "pool_weight_norm": True}
FULL = AttentionConfig(num_heads=8, num_kv_heads=8, window=1000, wavelength=None, bias=True)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"mixer": S4DConfig(tied=True)}, 5_842_592),
        (AUTOREGRESSIVE | {"mixer": S4Config(tied=True, glu=False)}, 4_059_360),
        ({"mixer": TIED, "center_mixer": FULL, "center_mlp_expansion": 1}, 5_710_496),
    ],
)
def test_published_sizes(options, count):
    """Of which there is no configuration; tests/experiment has those of the others."""
    assert count_params(SashimiConfig(**options).build()) == count
