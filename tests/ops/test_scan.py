import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.ops.scan import choose_implementation, linear_scan, linear_step
from poolformer_jax.typing import Planes

IMPLEMENTATIONS = ("associative", "sequential")
KINDS = ("real", "complex")
compiled_scan = jax.jit(linear_scan, static_argnames="implementation")


def random_problem(kind, shape=(2, 13, 3), seed=0):
    """(a, x, h0) in complex128 or float64 with |a| < 1."""
    rng = np.random.default_rng(seed)
    b, _, c = shape
    a = rng.uniform(0.3, 0.999, shape)
    x, h0 = rng.normal(size=shape), rng.normal(size=(b, c))
    if kind == "complex":
        a = a * np.exp(1j * rng.uniform(-np.pi, np.pi, shape))
        x = x + 1j * rng.normal(size=shape)
        h0 = h0 + 1j * rng.normal(size=(b, c))
    return a, x, h0


def to_jax(array, dtype=jnp.float32):
    if np.iscomplexobj(array):
        return Planes(jnp.asarray(array.real, dtype), jnp.asarray(array.imag, dtype))
    return jnp.asarray(array, dtype)


def to_numpy(array):
    if isinstance(array, Planes):
        return np.asarray(array.real, np.float64) + 1j * np.asarray(array.imag, np.float64)
    return np.asarray(array, np.float64)


def numpy_scan(a, x, h0):
    """(all states, last state), one step after the other."""
    h, states = h0, np.empty_like(x)
    for t in range(x.shape[1]):
        h = a[:, t] * h + x[:, t]
        states[:, t] = h
    return states, h


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("steps", [1, 2, 13, 64])
def test_equals_numpy_loop(implementation, kind, steps):
    a, x, h0 = random_problem(kind, (2, steps, 3))
    h, h_last = compiled_scan(to_jax(a), to_jax(x), h0=to_jax(h0), implementation=implementation)
    expected, expected_last = numpy_scan(a, x, h0)
    # States of order 10 after up to 64 float32 steps whose errors decay.
    np.testing.assert_allclose(to_numpy(h), expected, atol=1e-5)
    np.testing.assert_allclose(to_numpy(h_last), expected_last, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_no_initial_state_means_zeros(implementation, kind):
    a, x, h0 = random_problem(kind)
    h, _ = compiled_scan(to_jax(a), to_jax(x), implementation=implementation)
    np.testing.assert_allclose(to_numpy(h), numpy_scan(a, x, 0 * h0)[0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_chunks_equal_whole(implementation, kind):
    a, x, h0 = map(to_jax, random_problem(kind, (2, 12, 3)))
    whole, whole_last = compiled_scan(a, x, h0=h0, implementation=implementation)
    outputs, h = [], h0
    for start, stop in ((0, 5), (5, 6), (6, 12)):
        part = jax.tree.map(lambda p, i=start, j=stop: p[:, i:j], (a, x))
        output, h = compiled_scan(*part, h0=h, implementation=implementation)
        outputs.append(to_numpy(output))
    # Another tree of float32 roundings.
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), to_numpy(whole), atol=2e-6)
    np.testing.assert_allclose(to_numpy(h), to_numpy(whole_last), atol=2e-6)


def unrolled(a, x, h0):
    """The recurrence without `linear_scan` or its gradient, on Planes as complex64."""

    def join(p):
        return jax.lax.complex(p.real, p.imag) if isinstance(p, Planes) else p

    a, x, h = join(a), join(x), join(h0)
    states = []
    for t in range(x.shape[1]):
        h = a[:, t] * h + x[:, t]
        states.append(h)
    h_all = jnp.stack(states, axis=1)

    def split(p):
        return Planes(p.real, p.imag) if jnp.iscomplexobj(p) else p

    return split(h_all), split(h)


def gradients(scan, kind, problem):
    """Gradients of a loss that depends on every state, and on the last one again."""
    rng = np.random.default_rng(5)
    weights = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32),
        (problem[1], problem[2]),
    )

    def loss(a, x, h0):
        products = jax.tree.map(lambda p, w: jnp.sum(jnp.sin(p) * w), scan(a, x, h0), weights)
        return sum(jax.tree.leaves(products))

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*problem)


# One associative case: its gradient compiles slowly.
@pytest.mark.parametrize(
    ("implementation", "kind"),
    [("sequential", "real"), ("sequential", "complex"), ("associative", "complex")],
)
def test_gradient_equals_that_of_the_unrolled_recurrence(implementation, kind):
    problem = tuple(map(to_jax, random_problem(kind, (2, 5, 3))))

    def scan(a, x, h0):
        return linear_scan(a, x, h0=h0, implementation=implementation)

    actual = gradients(scan, kind, problem)
    expected = gradients(unrolled, kind, problem)
    for name, ours, theirs in zip(("a", "x", "h0"), actual, expected, strict=True):
        # Gradients of order 1 from five float32 steps in another order.
        np.testing.assert_allclose(
            to_numpy(ours), to_numpy(theirs), atol=5e-6, err_msg=f"gradient of {name}"
        )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_input_accumulates_in_float32(implementation):
    steps = 512
    rng = np.random.default_rng(0)
    a = jnp.full((1, steps, 4), 0.996, jnp.float32)
    x = jnp.asarray(rng.uniform(0.5, 1.5, (1, steps, 4)), jnp.bfloat16)
    h, h_last = compiled_scan(a, x, implementation=implementation)
    expected, _ = numpy_scan(np.asarray(a, np.float64), np.asarray(x, np.float64), np.zeros((1, 4)))
    assert h.dtype == jnp.bfloat16 and h_last.dtype == jnp.float32
    # Half a unit in the last place of bfloat16: only the output is rounded.
    tolerance = 2.0**-8
    np.testing.assert_allclose(np.asarray(h, np.float64), expected, rtol=tolerance)
    np.testing.assert_allclose(np.asarray(h_last, np.float64), expected[:, -1], rtol=1e-5)
    # The tolerance tells the two apart: a sum kept in bfloat16 stops growing far too early.
    low_a, low_x = np.asarray(a.astype(jnp.bfloat16)), np.asarray(x)
    low = np.zeros_like(low_x[:, 0])
    for t in range(steps):
        low = low_a[:, t] * low + low_x[:, t]
    assert low.dtype == jnp.bfloat16
    assert np.abs(np.asarray(low, np.float64) / expected[:, -1] - 1).min() > 4 * tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_step_equals_formula(kind):
    a, x, h0 = random_problem(kind)
    a, x = a[:, 0], x[:, 0]
    step = linear_step(to_jax(a), to_jax(x), to_jax(h0))
    np.testing.assert_allclose(to_numpy(step), a * h0 + x, atol=1e-6)


def test_step_computes_in_float32():
    a, x, h = (jnp.full((1, 1), value, jnp.bfloat16) for value in (0.99, 0.01, 1.0))
    step = linear_step(a, x, h)
    assert step.dtype == jnp.float32
    exact = np.asarray(a, np.float64) + np.asarray(x, np.float64)
    np.testing.assert_allclose(step, exact, rtol=2.0**-23)


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(1, 4, 3\).*\(1, 4, 2\)"):
        linear_scan(jnp.ones((1, 4, 3)), jnp.ones((1, 4, 2)))


def test_shapes_without_time_are_named():
    with pytest.raises(ValueError, match=r"\[b, t, c\].*\(4, 3\).*\(4, 3\)"):
        linear_scan(jnp.ones((4, 3)), jnp.ones((4, 3)))


def test_initial_state_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"h0 must have shape \(1, 3\).*got \[\(2, 3\)\]"):
        linear_scan(jnp.ones((1, 4, 3)), jnp.ones((1, 4, 3)), h0=jnp.ones((2, 3)))


def test_real_and_complex_do_not_mix():
    ones = jnp.ones((1, 4, 3))
    with pytest.raises(ValueError, match="both real arrays or both Planes"):
        linear_scan(Planes(ones, ones), ones)
    with pytest.raises(ValueError, match="kind of x"):
        linear_scan(Planes(ones, ones), Planes(ones, ones), h0=jnp.ones((1, 3)))


def test_no_steps_is_an_error():
    with pytest.raises(ValueError, match="0 steps"):
        linear_scan(jnp.ones((1, 0, 3)), jnp.ones((1, 0, 3)))


def test_auto_follows_the_named_platform():
    assert choose_implementation("auto", "cpu") == "sequential"
    assert choose_implementation("auto", "gpu") == "associative"
    assert choose_implementation("auto", "tpu") == "fused"
    for name in IMPLEMENTATIONS:
        assert choose_implementation(name, "cpu") == choose_implementation(name, "tpu") == name
