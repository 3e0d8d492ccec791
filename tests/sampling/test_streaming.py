import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.models.poolformer import Poolformer, init_params
from poolformer_jax.sampling.streaming import sample
from tests.training.tiny import MODEL


@pytest.fixture(scope="module")
def params():
    params = init_params(MODEL, jax.random.key(0))
    # Logits far apart, so that rounding cannot change what is drawn.
    params["head"]["projection"]["kernel"] *= 5.0
    return params


def test_sampling_is_ancestral(params):
    """Every draw follows the distribution that the whole model gives to its prefix."""
    key, clips, length, temperature = jax.random.key(3), 2, 24, 0.7
    codes = sample(MODEL, params, key, num_clips=clips, num_samples=length, temperature=temperature)
    logits, _ = Poolformer(MODEL).apply({"params": params}, jnp.asarray(codes))
    for t in range(length):
        for clip in range(clips):
            clip_key = jax.random.fold_in(jax.random.fold_in(key, t), clip)
            expected = jax.random.categorical(clip_key, logits[clip, t] / temperature)
            assert codes[clip, t] == expected, (clip, t)


def test_temperature_zero_is_greedy(params):
    codes = sample(MODEL, params, jax.random.key(0), num_clips=1, num_samples=16, temperature=0.0)
    logits, _ = Poolformer(MODEL).apply({"params": params}, jnp.asarray(codes))
    np.testing.assert_array_equal(codes, np.argmax(logits, axis=-1))


def test_longer_draw_starts_like_a_shorter_one(params):
    key = jax.random.key(1)
    progress = []
    long = sample(MODEL, params, key, num_clips=1, num_samples=1000, on_progress=progress.append)
    short = sample(MODEL, params, key, num_clips=1, num_samples=7)
    assert long.shape == (1, 1000)
    assert progress[-1] == 1000
    np.testing.assert_array_equal(long[:, :7], short)


def test_clips_differ(params):
    codes = sample(MODEL, params, jax.random.key(2), num_clips=3, num_samples=20)
    assert len({tuple(row) for row in codes.tolist()}) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_clips": 0, "num_samples": 5},
        {"num_clips": 1, "num_samples": 0},
        {"num_clips": 1, "num_samples": 5, "temperature": -1.0},
    ],
)
def test_numbers_out_of_range(params, arguments):
    with pytest.raises(ValueError, match="must"):
        sample(MODEL, params, jax.random.key(0), **arguments)
