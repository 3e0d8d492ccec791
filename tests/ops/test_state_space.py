"""State spaces: initial values, kernels and methods against plain loops in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.mixer_config import S4Config, S4DConfig
from poolformer_jax.ops import hippo
from poolformer_jax.ops.state_space import DiagonalSystem, LowRankSystem, run
from poolformer_jax.typing import Planes
from tests import oracle_s4

METHODS = ["chunked", "fft", "step"]
SYSTEMS = ["s4", "legs", "lin", "inv"]


def test_legs_has_the_published_frequencies_and_inputs():
    frequency, b, p = hippo.legs(32)
    first = [1303.27384298, 433.03075654, 258.15221022, 182.6204114, 140.21433596]
    last = [3.6648071, 2.62565477, 1.70296817, 0.90585941, 0.26385693]
    np.testing.assert_allclose(frequency[:5], first, rtol=1e-8)
    np.testing.assert_allclose(frequency[-5:], last, rtol=1e-7)
    magnitude = np.sqrt(2) * np.abs(p)
    np.testing.assert_allclose(
        magnitude[:4], [40.75184091, 13.60563468, 8.18904833, 5.87620092], rtol=1e-8
    )
    np.testing.assert_allclose(magnitude[-2:], [0.68022726, 0.59451191], rtol=1e-7)
    np.testing.assert_allclose(b, 1j * np.minimum(magnitude, 2.0), rtol=1e-14)
    assert np.sum(magnitude > 2.0) == 11


def test_smaller_legs():
    frequency, b, p = hippo.legs(2)
    np.testing.assert_allclose(frequency, [4.603293007, 0.556501115], rtol=1e-8)
    np.testing.assert_allclose(p, [1.879500481j, 0.683723587j], rtol=1e-8)
    np.testing.assert_allclose(b, [2j, 0.96693117j], rtol=1e-8)
    expected = [2j, 1.843868911j, 1.174959947j, 0.799463588j]
    np.testing.assert_allclose(hippo.legs(4).b, expected, rtol=1e-8)


def test_inverse_frequencies():
    frequency = hippo.diagonal("inv", 32).frequency
    expected = [1283.42546109, 414.22726522, 240.38762605, 165.88492354]
    np.testing.assert_allclose(frequency[:4], expected, rtol=1e-9)
    assert frequency[-1] == pytest.approx(0.32336242, abs=1e-8)


def parameters(kind, pairs, dt, c):
    """As the oracle takes them: (a, b, c, p, dt), complex, of each channel."""
    modes = hippo.legs(pairs) if kind == "s4" else hippo.diagonal(kind, pairs)

    def of_all(x):
        return np.broadcast_to(x, (len(dt), pairs))

    p = of_all(modes.p) if kind == "s4" else None
    return of_all(-0.5 - 1j * modes.frequency), of_all(modes.b), c, p, dt


def random_parameters(kind, channels=3, pairs=32, seed=0):
    rng = np.random.default_rng(seed)
    c = np.sqrt(0.5) * (rng.normal(size=(channels, pairs, 2)) @ [1, 1j])
    return parameters(kind, pairs, np.geomspace(1e-3, 0.1, channels), c)


def system_of(a, b, c, p, dt, **options):
    def planes(x):
        return Planes(jnp.float32(x.real), jnp.float32(x.imag))

    common = {"dt": jnp.float32(dt), "a": planes(a), "b": planes(b), "c": planes(c)}
    return (
        DiagonalSystem(**common) if p is None else LowRankSystem(p=planes(p), **common, **options)
    )


def systems(kind, **options):
    """Parameters as the oracle takes them, and the system of them; `s4_in_loops` is one more."""
    kind, _, loops = kind.partition("_in_")
    values = random_parameters(kind, **options)
    return values, system_of(*values, **({"in_loops": True} if loops else {}))


def oracle(values, u, x=None):
    """Outputs and last states, as `run` has them."""
    a, b, c, p, dt = values
    y, last = np.empty(u.shape), np.empty((len(u), len(dt), 2 * a.shape[1]))
    for channel in range(len(dt)):
        q = None if p is None else p[channel]
        system = oracle_s4.discrete(a[channel], b[channel], c[channel], q, dt[channel])
        for i in range(len(u)):
            start = None
            if x is not None:
                kept = x[i, channel] @ np.kron([[1], [1j]], np.eye(a.shape[1]))
                start = np.concatenate([kept, kept.conj()])
            y[i, :, channel], end = oracle_s4.recur(system, u[i, :, channel], start)
            last[i, channel] = np.concatenate([end[: a.shape[1]].real, end[: a.shape[1]].imag])
    return y, last


def test_micro_vectors():
    impulse = np.eye(1, 4)[..., None]
    for kind, pairs, expected in (
        ("lin", 2, [0.387011209, 0.350341188, 0.300984953, 0.244020162]),
        ("s4", 2, [0.06384802, 0.141831096, 0.147520169, 0.12271281]),
        ("s4", 4, [0.143734986, 0.177450316, 0.107914717, 0.184169707]),
    ):
        values = parameters(kind, pairs, np.full(1, 0.1), np.ones((1, pairs), complex))
        np.testing.assert_allclose(oracle(values, impulse)[0][0, :, 0], expected, atol=1e-8)
        system, start = system_of(*values), jnp.zeros((1, 1, 2 * pairs))
        for method in METHODS:
            y, _ = jax.jit(functools.partial(run, method=method))(
                system, jnp.float32(impulse), start
            )
            # Float32 rounding of values below 1.
            np.testing.assert_allclose(y[0, :, 0], expected, atol=1e-6)


def test_eigenvalues_of_the_discrete_matrix():
    a, b, c, p, dt = parameters("s4", 2, np.full(1, 0.1), np.ones((1, 2), complex))
    expected = [2 / 3, 0.739130435, 0.818181818, 0.904761905]
    matrix, _, _ = oracle_s4.discrete(a[0], b[0], c[0], p[0], dt[0])
    np.testing.assert_allclose(np.sort(np.abs(np.linalg.eigvals(matrix))), expected, atol=1e-9)
    power = np.eye(4) + system_of(a, b, c, p, dt)._growth()[0]
    np.testing.assert_allclose(np.sort(np.abs(np.linalg.eigvals(power))), expected, atol=1e-5)


def test_the_released_parameter_of_a_known_system():
    """C (1 - A^16), of which `released_kernel` starts."""
    a, b, c, p, dt = parameters("s4", 2, np.full(1, 0.1), np.ones((1, 2), complex))
    matrix, _, full = oracle_s4.discrete(a[0], b[0], c[0], p[0], dt[0])
    ours = full @ (np.eye(4) - np.linalg.matrix_power(matrix, 16))
    expected = [0.957644796 - 0.033197103j, 0.563172942 + 0.158935304j]
    np.testing.assert_allclose(ours[:2], expected, atol=1e-8)


@pytest.mark.parametrize("length", [64, 1000])
def test_released_kernel_equals_the_recurrence(length):
    """Two ways of the specification in float64: the generating function and the plain loop."""
    a, b, c, p, dt = random_parameters("s4")
    impulse = np.eye(1, length)[..., None] * np.ones(len(dt))
    y, _ = oracle((a, b, c, p, dt), impulse)
    for i in range(len(dt)):
        kernel = oracle_s4.released_kernel(a[i], b[i], c[i], p[i], dt[i], length)
        np.testing.assert_allclose(kernel, y[0, :, i], atol=1e-12 * np.abs(y).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [*SYSTEMS, "s4_in_loops"])
def test_kernel_equals_the_recurrence(kind, method):
    (values, system), length = systems(kind), 1000
    impulse = np.eye(1, length)[..., None] * np.ones(len(values[-1]))
    expected, _ = oracle(values, impulse)
    start = jnp.zeros((1, len(values[-1]), 64))
    y, _ = jax.jit(functools.partial(run, method=method))(system, jnp.float32(impulse), start)
    np.testing.assert_allclose(y, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [*SYSTEMS, "s4_in_loops"])
def test_slow_channels_keep_their_digits(kind, method):
    """From a random state over as many steps as the slowest channel remembers."""
    rng, (values, system) = np.random.default_rng(2), systems(kind)
    u, x = rng.normal(size=(1, 1000, 3)), rng.normal(size=(1, 3, 64))
    ours = jax.jit(functools.partial(run, method=method))(system, jnp.float32(u), jnp.float32(x))
    for one, exact in zip(ours, oracle(values, u, x), strict=True):
        np.testing.assert_allclose(one, exact, atol=5e-5 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("s4", 39),
        pytest.param("s4_in_loops", 39, marks=pytest.mark.slow),
        *(
            pytest.param(kind, steps, marks=pytest.mark.nightly)
            for kind, steps in itertools.product(["s4", "legs"], [1, 7, 16, 17, 39])
            if (kind, steps) != ("s4", 39)
        ),
    ],
)
def test_methods_agree_from_any_state(kind, steps):
    rng = np.random.default_rng(1)
    values, system = systems(kind, channels=2, pairs=4)
    u, x, weights = rng.normal(size=(2, steps, 2)), rng.normal(size=(2, 2, 8)), None
    weights = rng.normal(size=u.shape), rng.normal(size=x.shape)
    expected = oracle(values, u, x)
    gradients = {}
    for method in METHODS:

        @jax.jit
        @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
        def loss(system, u, x, method=method):
            y, last = run(system, u, x, method=method, chunk=16)
            parts = (jnp.sum(jnp.float32(w) * p) for w, p in zip(weights, (y, last), strict=True))
            return sum(parts), (y, last)

        (_, outputs), gradients[method] = loss(system, jnp.float32(u), jnp.float32(x))
        for ours, theirs in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5 * (1 + np.abs(theirs).max()))
    reference = jax.tree.leaves(gradients["step"])
    for method in ("chunked", "fft"):
        for ours, theirs in zip(jax.tree.leaves(gradients[method]), reference, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("kind", ["s4", "legs"])
def test_the_rest_of_a_sequence_is_a_chunk_like_the_others(kind):
    _, system = systems(kind, channels=2, pairs=4)
    leaves, structure = jax.tree.flatten(system)

    def count_products(steps):
        @jax.jit
        @jax.grad
        def gradient(leaves, u):
            system = jax.tree.unflatten(structure, leaves)
            y, _ = run(system, u, jnp.zeros((1, 2, 8)), method="chunked", chunk=16)
            return jnp.sum(jnp.sin(y))

        return gradient.lower(leaves, jnp.ones((1, steps, 2))).as_text().count("dot_general")

    assert count_products(3 * 16 + 5) == count_products(4 * 16) > 0


@pytest.mark.parametrize(
    ("config", "width", "count"),
    [
        (S4Config(), 64, 260 * 64 + 2 * 64**2),
        (S4Config(tied=True), 64, 68 * 64 + 192 + 2 * 64**2),
        (S4DConfig(), 128, 196 * 128 + 2 * 128**2),
        (S4Config(glu=False), 64, 259 * 64 + 64**2),
    ],
)
def test_counts(config, width, count):
    mixer = config.build(ExecutionConfig())
    state = mixer.init_state(1, width)
    x = jnp.zeros((1, 2, width))
    shapes = jax.eval_shape(mixer.init, jax.random.key(0), x, state)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="state_size 7 is odd, but states come in pairs; use 8"):
        S4Config(state_size=7)
    with pytest.raises(ValueError, match=r"dt_min 1\.0 must be at most dt_max 0\.1"):
        S4DConfig(dt_min=1.0)
