"""What all mixers have in common, in every variant."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.mixer_config import (
    MIXERS,
    AttentionConfig,
    LRUConfig,
    MambaConfig,
    RGLRUConfig,
    S4Config,
    S4DConfig,
)
from poolformer_jax.typing import Planes
from tests import oracle
from tests.time_parts import split

BATCH, STEPS, WIDTH = 2, 9, 4
EXECUTION = ExecutionConfig(scan="sequential")
GATED = RGLRUConfig(recurrent_width=8, num_gate_blocks=2)
VARIANTS = {
    "rg_lru": GATED,
    "rg_lru_real": dataclasses.replace(GATED, complex=False, decay_exponent=2.0),
    "lru": LRUConfig(recurrent_width=8),
    "lru_real": LRUConfig(recurrent_width=8, complex=False),
    "attention": AttentionConfig(num_heads=1, window=16),
    "attention_local": AttentionConfig(num_heads=2, num_kv_heads=2, window=4, wavelength=None),
    "s4": S4Config(state_size=8),
    "s4_fft": S4Config(state_size=4, tied=True, glu=False, method="fft"),
    "s4d": S4DConfig(state_size=8),
    "mamba": MambaConfig(state_size=3),
    "mamba_complex": MambaConfig(
        state_size=2, complex=True, expand=1, dt_rank=2, convolution_width=3
    ),
}
X = jnp.float32(np.random.default_rng(0).normal(size=(BATCH, STEPS, WIDTH)))


def test_every_mixer_is_tested():
    assert {config.kind for config in VARIANTS.values()} == set(MIXERS)


def random_params(mixer, seed=0):
    state = mixer.init_state(BATCH, WIDTH)
    shapes = jax.eval_shape(mixer.init, jax.random.key(0), X, state)["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda p: jnp.float32(0.5 * rng.normal(size=p.shape)), shapes)
    if "decay" in params:
        params["decay"] -= 2.0  # Around the initial radii.
    return params


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A mixer with random parameters."""

    config: object
    params: dict
    start: object
    run: object  # (params, x, state) -> (y, state), compiled.


SPLIT_OFTEN = ("rg_lru", "attention_local", "s4d", "mamba")
# What is inside these is tested in tests/ops.
RARELY = ("rg_lru_real", "lru_real", "attention", "s4_fft", "mamba_complex")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.nightly if name in RARELY else ()) for name in VARIANTS
    ],
)
def case(request):
    config = VARIANTS[request.param]
    mixer = config.build(EXECUTION)

    @jax.jit
    def run(params, x, state):
        return mixer.apply({"params": params}, x, state)

    return Case(config, random_params(mixer), mixer.init_state(BATCH, WIDTH), run)


def assert_states_close(state, expected, atol):
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, Planes))
    for ours, theirs in zip(parts, expected, strict=True):
        if isinstance(ours, Planes):
            ours = np.asarray(ours.real) + 1j * np.asarray(ours.imag)
        np.testing.assert_allclose(ours, theirs, atol=atol)


def test_equals_oracle(case):
    y, last = case.run(case.params, X, case.start)
    assert y.shape == X.shape and y.dtype == jnp.float32
    expected, expected_last = oracle.mix(case.config, case.params, np.float64(X))
    # Float32 rounding of nine steps with values of order 1.
    np.testing.assert_allclose(y, expected, atol=5e-6)
    assert_states_close(last, expected_last, atol=5e-6)


@pytest.mark.parametrize("size", [3, 1], ids=["chunks", "steps"])
def test_parts_equal_whole(case, size):
    whole, whole_last = case.run(case.params, X, case.start)
    outputs, state = [], case.start
    for start in range(0, STEPS, size):
        y, state = case.run(case.params, X[:, start : start + size], state)
        outputs.append(y)
    # The same operations step by step; matrix products may round differently with their shape.
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), whole, atol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(whole_last), strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=() if name in SPLIT_OFTEN else pytest.mark.nightly)
        for name in VARIANTS
    ],
    indirect=True,
)
def test_parts_of_time_on_devices_equal_whole(case):
    """Outputs, last state and gradients, from a state in the middle of a sequence."""
    rng = np.random.default_rng(4)
    x = jnp.float32(rng.normal(size=(BATCH, 12, WIDTH)))
    start = case.run(case.params, X, case.start)[1]
    mixer = case.config.build(EXECUTION)

    def one(x, params, state):
        return mixer.apply({"params": params}, x, state)

    outputs = case.run(case.params, x, start)
    weights = jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), outputs)

    def results(run):
        def loss(x, params):
            outputs = run(x, params, start)
            products = jax.tree.map(
                lambda w, leaf: jnp.sum(w * jnp.float32(leaf)), weights, outputs
            )
            return sum(jax.tree.leaves(products)), outputs

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, case.params)

    on_devices = split(one, 4)
    parts = results(lambda x, *shared: on_devices((x,), shared))
    for ours, theirs in zip(*map(jax.tree.leaves, (parts, results(jax.jit(one)))), strict=True):
        # Sums of a hundred terms of order 1, in another order.
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * (1 + np.abs(theirs).max()))


def test_causal(case):
    """The derivative of output t by input s is exactly 0 for s > t, and only there.

    A Fourier transform rounds: all outputs have a share of each input, of 1e-7.
    """

    @jax.jit
    @jax.jacrev
    def jacobian(x):
        start = case.config.build(EXECUTION).init_state(1, WIDTH)
        return case.run(case.params, x[None], start)[0][0] @ jnp.linspace(-1.0, 1.0, WIDTH)

    rounding = 1e-6 if getattr(case.config, "method", None) == "fft" else 0.0
    reaches = np.any(np.abs(jacobian(X[0])) > rounding, axis=-1)
    window = getattr(case.config, "window", STEPS)
    expected = np.tril(np.ones((STEPS, STEPS), bool)) & ~np.tri(STEPS, k=-window, dtype=bool)
    np.testing.assert_array_equal(reaches, expected)


def test_gradients_equal_differences_of_the_oracle(case):
    rng = np.random.default_rng(3)
    weights = rng.normal(size=X.shape)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(params, x):
        return jnp.sum(case.run(params, x, case.start)[0] * jnp.float32(weights))

    point = jax.tree.map(np.float64, (case.params, X))
    leaves, structure = jax.tree.flatten(point)
    for i, ours in enumerate(jax.tree.leaves(gradient(case.params, X))):
        direction = rng.normal(size=leaves[i].shape)

        def loss(distance, i=i, direction=direction):
            moved = [*leaves[:i], leaves[i] + distance * direction, *leaves[i + 1 :]]
            params, x = jax.tree.unflatten(structure, moved)
            return np.sum(oracle.mix(case.config, params, x)[0] * weights)

        expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
        scale = np.linalg.norm(ours) * np.linalg.norm(direction)
        # Float32 sums of up to a hundred terms; differences in float64 are exact to 1e-9.
        assert np.sum(ours * direction) == pytest.approx(expected, abs=5e-6 * scale)


def test_bfloat16_activations_keep_the_types_of_the_state(case):
    """That of a recurrence is float32."""
    mixer = case.config.build(dataclasses.replace(EXECUTION, dtype="bfloat16"))
    start = mixer.init_state(BATCH, WIDTH)
    y, last = jax.jit(mixer.apply)({"params": case.params}, jnp.bfloat16(X), start)
    assert y.dtype == jnp.bfloat16
    for ours, theirs in zip(jax.tree.leaves(last), jax.tree.leaves(start), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.dtype == jnp.float32 or case.config.kind == "attention"
    expected, _ = oracle.mix(case.config, case.params, np.float64(X))
    # bfloat16 rounds x, the weights and the output, each to 8 bits, at a scale of about 4.
    np.testing.assert_allclose(np.float32(y), expected, atol=0.1)


@pytest.mark.parametrize("case", ["rg_lru", "rg_lru_real", "lru", "lru_real"], indirect=True)
def test_gates_and_decays_are_float32_whatever_the_activations(case):
    """With linear maps that bfloat16 can hold, the state is that of float32."""
    mixer = case.config.build(dataclasses.replace(EXECUTION, dtype="bfloat16"))
    params = dict(case.params)
    for name in {"input_projection", "input_gate", "recurrence_gate"} & params.keys():
        kernel, bias = (params[name][part] for part in ("kernel", "bias"))
        bias = jnp.round(8 * bias) / 8 if "gate" in name else jnp.ones_like(bias)
        params[name] = {"kernel": jnp.zeros_like(kernel), "bias": bias}
    _, last = jax.jit(mixer.apply)({"params": params}, jnp.bfloat16(X), case.start)
    _, expected = oracle.mix(case.config, params, np.float64(X))
    assert_states_close(last, expected, atol=5e-6)


@pytest.mark.parametrize("case", ["rg_lru", "rg_lru_real", "lru", "lru_real"], indirect=True)
def test_width_grows_with_the_level(case):
    assert case.config.grown(3).recurrent_width == 3 * case.config.recurrent_width
    assert dataclasses.replace(case.config.grown(3), recurrent_width=8) == case.config


def test_lru_is_an_rg_lru_whose_gates_are_open():
    plain = VARIANTS["lru"].build(EXECUTION)
    gated = dataclasses.replace(GATED, decay_exponent=1.0).build(EXECUTION)
    params, state = random_params(plain), plain.init_state(BATCH, WIDTH)
    # sigmoid(50) is 1 in float32.
    gate = {"kernel": jnp.zeros((2, 4, 2)), "bias": jnp.full((2, 2), 50.0)}
    opened = params | {"input_gate": gate, "recurrence_gate": gate}
    ours, theirs = (
        jax.jit(mixer.apply)({"params": p}, X, state)
        for mixer, p in ((plain, params), (gated, opened))
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
