import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.layers.pooling import DownPool, UpPool

# (outer width, inner width, groups): a tap per channel, two groups, one matrix; and widths that
# grow with the pool.
WIDTHS = [(4, 4, 4), (4, 4, 2), (4, 4, 1), (4, 8, 4), (4, 8, 2), (4, 8, 1)]
FACTORS = [2, 3]
BATCH, WINDOWS = 2, 4
# Sums of a few float32 terms of order 1.
close = functools.partial(np.testing.assert_allclose, atol=2e-6, rtol=0)


def random_params(factor, in_features, features, groups):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(factor, in_features // groups, features))
    return {"kernel": jnp.float32(kernel), "bias": jnp.float32(rng.normal(size=features))}


def full_matrices(params, in_features, groups):
    """The taps [f, i, o] with the zeros between groups filled in."""
    kernel = np.asarray(params["kernel"], np.float64)
    factor, per_in, features = kernel.shape
    per_out = features // groups
    full = np.zeros((factor, in_features, features))
    for g in range(groups):
        ins, outs = slice(g * per_in, (g + 1) * per_in), slice(g * per_out, (g + 1) * per_out)
        full[:, ins, outs] = kernel[:, :, outs]
    return full


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(("outer", "inner", "groups"), WIDTHS)
def test_down_pool_equals_loop_in_chunks_and_steps(factor, outer, inner, groups):
    params = random_params(factor, outer, inner, groups)
    pool = DownPool(factor, outer, inner, groups)
    x = np.random.default_rng(1).normal(size=(BATCH, WINDOWS * factor, outer))
    taps = full_matrices(params, outer, groups)
    expected = np.zeros((BATCH, WINDOWS, inner)) + np.asarray(params["bias"])
    for step in range(WINDOWS):
        for j in range(factor):
            expected[:, step] += x[:, step * factor + j] @ taps[j]

    chunk = jax.jit(functools.partial(pool.apply, {"params": params}))
    step = jax.jit(functools.partial(pool.apply, {"params": params}, method="step"))
    for begin in range(factor + 1):
        end, t = begin + (WINDOWS - 2) * factor, 0
        partial = jnp.full((BATCH, inner), 7.0)  # What an earlier window left must not matter.
        while t < WINDOWS * factor:
            run, after = (chunk, end) if t == begin else (step, t + 1)
            here = jnp.float32(x[:, t:after] if t == begin else x[:, t])
            y, partial = run(here, partial, jnp.asarray(t))
            if t == begin or after % factor == 0:
                close(y, expected[:, t // factor : after // factor].reshape(y.shape))
            t = after


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(("outer", "inner", "groups"), WIDTHS)
def test_up_pool_equals_loop_in_chunks_and_steps(factor, outer, inner, groups):
    params = random_params(factor, inner, outer, groups)
    pool = UpPool(factor, inner, outer, groups)
    y = np.random.default_rng(1).normal(size=(BATCH, WINDOWS, inner))
    taps, bias = full_matrices(params, inner, groups), np.asarray(params["bias"])
    expected = np.zeros((BATCH, WINDOWS * factor, outer))
    for t in range(factor - 1, WINDOWS * factor):
        step, r = divmod(t - (factor - 1), factor)
        expected[:, t] = y[:, step] @ taps[r] + bias

    chunk = jax.jit(functools.partial(pool.apply, {"params": params}))
    step = jax.jit(functools.partial(pool.apply, {"params": params}, method="step"))
    for begin in range(factor + 1):
        end, t = begin + (WINDOWS - 2) * factor, 0
        last = jnp.full((BATCH, inner), 7.0)  # What is there before the first must not matter.
        while t < WINDOWS * factor:
            if t == begin:
                completed = jnp.float32(y[:, begin // factor : end // factor])
                u, last = chunk(completed, last, jnp.asarray(t))
            else:
                if (t + 1) % factor == 0:
                    last = jnp.float32(y[:, t // factor])
                u = step(last, jnp.asarray(t))[:, None]
            after = t + u.shape[1]
            close(u, expected[:, t:after])
            # Exactly zero, although the bias is not.
            np.testing.assert_array_equal(u[:, : max(0, factor - 1 - t)], 0.0)
            t = after


@pytest.mark.parametrize("groups", [2, 1])
def test_windows_of_bfloat16_are_summed_in_float32(groups):
    """Of 300 ones: bfloat16 has no odd numbers behind 256."""
    factor, x = 300, jnp.ones((1, 300, 2), jnp.bfloat16)
    params = {"kernel": jnp.full((factor, 2 // groups, 2), groups / 2), "bias": jnp.zeros(2)}
    run = functools.partial(DownPool(factor, 2, 2, groups, jnp.bfloat16).apply, {"params": params})
    y, partial = run(x, jnp.full((1, 2), 299.0), jnp.asarray(299))
    assert y.dtype == jnp.bfloat16 and np.all(y == 300) and np.all(partial == 299)
    _, partial = run(x[:, 0], jnp.full((1, 2), 256.0), jnp.asarray(256), method="step")
    assert np.all(partial == 257)


def initial_variance(pool, *inputs):
    init = jax.jit(jax.vmap(lambda key: pool.init(key, *inputs)["params"]))
    params = init(jax.random.split(jax.random.key(0), 400))
    assert not np.any(params["bias"])
    return np.var(params["kernel"]), params["kernel"]


# At least 25,600 draws: the standard error of the variance is below 0.9 %.
@pytest.mark.parametrize(("groups", "fan_in"), [(32, 4), (8, 16), (1, 128)])
def test_down_pool_is_drawn_with_variance_one_over_fan_in(groups, fan_in):
    variance, kernel = initial_variance(
        DownPool(4, 32, 32, groups), jnp.zeros((1, 4, 32)), jnp.zeros((1, 32)), jnp.asarray(0)
    )
    assert variance == pytest.approx(1 / fan_in, rel=0.03)
    truncation = 2 / 0.87962566103423978
    assert np.abs(kernel).max() <= truncation / np.sqrt(fan_in) * (1 + 1e-6)


@pytest.mark.parametrize(("groups", "fan_in"), [(32, 4), (8, 16), (1, 128)])
def test_up_pool_is_drawn_with_scaled_variance(groups, fan_in):
    pool = UpPool(4, 32, 32, groups, init_scale=1 / 17)
    inputs = jnp.zeros((1, 1, 32)), jnp.zeros((1, 32)), jnp.asarray(0)
    variance, kernel = initial_variance(pool, *inputs)
    assert variance == pytest.approx(1 / 17 / fan_in, rel=0.03)
    # A normal distribution, not a truncated one.
    assert np.abs(kernel).max() > 3 * np.sqrt(1 / 17 / fan_in)
