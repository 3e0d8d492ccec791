"""What the generator claims about the model, for models drawn at random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from poolformer_jax.layers.mixer_config import LRUConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.ops.draw import Draw
from poolformer_jax.sampling.streaming import generate
from tests.models.random_models import (
    BATCH,
    EXAMPLES,
    random_labels,
    random_options,
    random_params,
)

# Float32 through up to 24 residual blocks, for logits of order 10.
TOLERANCE = 2e-4


def test_generation_is_exact():
    options = {"num_codes": 16, "initial_code": 8, "width": 4, "width_growth": 2}
    options |= {"pool_factors": (2, 3), "layers": (0, 1, 1), "skip": "long", "num_classes": 3}
    options |= {"temporal_convolution": True, "mixer": LRUConfig(recurrent_width=4)}
    check_generation(PoolformerConfig(**options, scan="sequential"))


@pytest.mark.nightly
@settings(EXAMPLES, max_examples=5)
@given(options=random_options())
def test_generation_is_exact_for_many_models(options):
    check_generation(PoolformerConfig(**options))


def check_generation(config):
    model, params, labels = config.build(), random_params(config), random_labels(config)
    length = 2 * config.chunk_multiple + 3
    key = jax.random.key(5)
    draw = functools.partial(generate, model, params, key, BATCH, length, labels=labels)

    @jax.jit
    def logits_of(codes):
        padded = jnp.pad(codes, ((0, 0), (0, -length % config.chunk_multiple)))
        logits, _ = model.logits(params, padded, model.init_state(BATCH, labels))
        return logits[:, :length]

    def of_codes(table, codes):
        return np.take_along_axis(np.asarray(table), codes[..., None], axis=-1)[..., 0]

    # The log-probabilities are those that the parallel pass gives to the codes.
    codes, log_probs = draw()
    logits = logits_of(codes)
    expected = of_codes(jax.nn.log_softmax(logits), codes)
    scale = max(1.0, np.abs(logits).max() / 10)
    np.testing.assert_allclose(log_probs, expected, atol=TOLERANCE * scale)
    np.testing.assert_allclose(
        log_probs.sum(axis=1), expected.sum(axis=1), atol=TOLERANCE * scale * length
    )

    # As the temperature goes to 0 the likeliest codes are drawn: none is likelier than those, but
    # for rounding.
    codes, _ = draw(draw=Draw(temperature=0.0))
    logits = np.asarray(logits_of(codes))
    assert np.all(of_codes(logits, codes) >= logits.max(axis=-1) - 2 * TOLERANCE * scale)
