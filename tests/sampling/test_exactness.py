"""What the generator claims about the model, for models drawn at random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.poolformer.model import Poolformer, init_state
from poolformer_jax.sampling.streaming import generate, prime
from tests.models.random_models import (
    BATCH,
    EXAMPLES,
    random_labels,
    random_options,
    random_params,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(5)
# Float32 through up to 24 residual blocks, for logits of order 10.
TOLERANCE = 2e-4


@settings(EXAMPLES, max_examples=2)
@given(options=random_options())
def test_generation_is_exact(options):
    check_generation(PoolformerConfig(**options))


@pytest.mark.slow
@settings(EXAMPLES, max_examples=10)
@given(options=random_options())
def test_generation_is_exact_for_many_models(options):
    check_generation(PoolformerConfig(**options))


def check_generation(config):
    params, labels = random_params(config), random_labels(config)
    length = 2 * config.total_pool_factor + 3
    draw = functools.partial(generate, config, params, KEY, BATCH, length, labels=labels)
    codes, log_probs = draw()

    # The log-probabilities are those that the parallel pass gives to the codes.
    logits = parallel_logits(config, params, codes, labels)
    table = np.asarray(jax.nn.log_softmax(logits))
    expected = np.take_along_axis(table, codes[..., None], axis=-1)[..., 0]
    scale = max(1.0, np.abs(logits).max() / 10)
    np.testing.assert_allclose(log_probs, expected, atol=TOLERANCE * scale)
    np.testing.assert_allclose(
        log_probs.sum(axis=1), expected.sum(axis=1), atol=TOLERANCE * scale * length
    )

    # So are the logits of every single step, also behind a prompt read in one parallel pass.
    read = codes[:, : config.total_pool_factor]
    state, _ = prime(config, params, init_state(config, BATCH, labels), read)
    _, primed = step_through(config, params, state, codes[:, read.shape[1] :])
    _, stepped = step_through(config, params, init_state(config, BATCH, labels), codes)
    np.testing.assert_allclose(stepped, logits, atol=TOLERANCE * scale)
    np.testing.assert_allclose(primed, logits[:, read.shape[1] :], atol=TOLERANCE * scale)

    # As the temperature goes to 0 the likeliest codes are drawn: none is likelier than those, but
    # for rounding.
    codes, _ = draw(temperature=0.0)
    logits = np.asarray(parallel_logits(config, params, codes, labels))
    chosen = np.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    assert np.all(chosen >= logits.max(axis=-1) - 2 * TOLERANCE * scale)


def parallel_logits(config, params, codes, labels):
    """Of whole clips in one pass, whatever their length."""
    padding = -codes.shape[1] % config.total_pool_factor
    padded = jnp.pad(jnp.asarray(codes), ((0, 0), (0, padding)))
    state = init_state(config, BATCH, labels)
    logits, _ = jax.jit(Poolformer(config).apply)({"params": params}, padded, state)
    return np.asarray(logits[:, : codes.shape[1]])


def step_through(config, params, state, codes):
    @jax.jit
    def run(state, codes):
        def step(state, code):
            logits, state = Poolformer(config).apply({"params": params}, code, state, method="step")
            return state, logits

        state, logits = jax.lax.scan(step, state, codes.T)
        return state, jnp.swapaxes(logits, 0, 1)

    return run(state, jnp.asarray(codes))
