import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax.models.poolformer.model import Poolformer, init_params, init_state
from poolformer_jax.sampling.streaming import StreamingGenerator, generate, prime
from tests.training.tiny import MODEL

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def params():
    params = init_params(MODEL, jax.random.key(0))
    # Logits far apart, so that rounding cannot change what is drawn.
    params["head"]["projection"]["kernel"] *= 5.0
    return params


def whole_logits(params, codes):
    """Of the parallel pass over whole clips, whatever their length."""
    padding = -codes.shape[1] % MODEL.total_pool_factor
    padded = jnp.pad(jnp.asarray(codes), ((0, 0), (0, padding)))
    return Poolformer(MODEL).apply({"params": params}, padded)[0][:, : codes.shape[1]]


def test_sampling_is_ancestral(params):
    """Every draw follows the distribution that the whole model gives to its prefix."""
    clips, length, temperature = 2, 24, 0.7
    codes, _ = generate(MODEL, params, KEY, clips, length, temperature=temperature)
    logits = whole_logits(params, codes)
    for t in range(length):
        for clip in range(clips):
            clip_key = jax.random.fold_in(jax.random.fold_in(KEY, clip), t)
            expected = jax.random.categorical(clip_key, logits[clip, t] / temperature)
            assert codes[clip, t] == expected, (clip, t)


@pytest.mark.parametrize("prompt_length", [0, 7])
def test_reported_log_probabilities_are_those_of_the_parallel_pass(params, prompt_length):
    prompt = np.arange(2 * prompt_length).reshape(2, -1) % 16 if prompt_length else None
    # They are the model's own, whatever the codes are drawn from.
    codes, log_probs = generate(MODEL, params, KEY, 2, 31, prompt=prompt, temperature=1.5, top_k=9)
    table = jax.nn.log_softmax(whole_logits(params, codes))
    expected = np.take_along_axis(np.asarray(table), codes[..., None], axis=-1)[..., 0]
    # Float32: 2e-4 for logits of order 10.
    np.testing.assert_allclose(log_probs, expected, atol=2e-4)
    np.testing.assert_allclose(log_probs.sum(axis=1), expected.sum(axis=1), rtol=1e-5)


def test_temperature_zero_is_greedy(params):
    codes, _ = generate(MODEL, params, KEY, 1, 16, temperature=0.0)
    np.testing.assert_array_equal(codes, np.argmax(whole_logits(params, codes), axis=-1))


@pytest.mark.parametrize("prompt_length", [1, 10, 11])
def test_prompt_read_in_parallel_gives_the_state_of_a_stepped_one(params, prompt_length):
    codes = np.random.default_rng(0).integers(0, 16, (2, prompt_length)).astype(np.int32)
    state, log_probs = prime(MODEL, params, init_state(MODEL, 2), codes)
    stepped = init_state(MODEL, 2)
    for t in range(prompt_length):
        logits, stepped = Poolformer(MODEL).apply(
            {"params": params}, jnp.asarray(codes[:, t]), stepped, method="step"
        )
        expected = jax.nn.log_softmax(logits)[np.arange(2), codes[:, t]]
        np.testing.assert_allclose(log_probs[:, t], expected, atol=2e-4)
    assert int(state.time) == prompt_length
    next_one, next_other = (
        Poolformer(MODEL).apply({"params": params}, one, method="predict")[0]
        for one in (state, stepped)
    )
    np.testing.assert_allclose(next_one, next_other, atol=2e-4)


def test_a_clip_continues_a_prompt_of_itself(params):
    whole, _ = generate(MODEL, params, KEY, 2, 40)
    for cut in (1, 13, 20):
        again, _ = generate(MODEL, params, KEY, 2, 40, prompt=whole[:, :cut])
        np.testing.assert_array_equal(again, whole)


@pytest.mark.slow
def test_one_prompt_serves_all_clips(params):
    codes, _ = generate(MODEL, params, KEY, 3, 30, prompt=np.array([1, 2, 3]))
    assert np.all(codes[:, :3] == [1, 2, 3])
    assert len({tuple(row) for row in codes.tolist()}) == 3


@pytest.mark.parametrize("block_samples", [1, 7, 50])
def test_blocks_are_the_clip_whatever_their_length(params, block_samples):
    whole, log_probs = generate(MODEL, params, KEY, 2, 50)
    stream = StreamingGenerator(MODEL, params, KEY, 2, block_samples=block_samples)
    blocks = list(itertools.islice(stream, -(-50 // block_samples)))
    assert all(block.codes.shape == (2, block_samples) for block in blocks)
    assert stream.position == len(blocks) * block_samples
    codes = np.concatenate([block.codes for block in blocks], axis=1)
    np.testing.assert_array_equal(codes[:, :50], whole)
    ours = np.concatenate([block.log_probs for block in blocks], axis=1)
    np.testing.assert_allclose(ours[:, :50], log_probs, atol=1e-5)


def test_a_clip_does_not_depend_on_those_beside_it(params):
    together, _ = generate(MODEL, params, KEY, 5, 200)
    for clip_ids in ([0], [4, 3], [1, 1, 2]):
        some, _ = generate(MODEL, params, KEY, len(clip_ids), 200, clip_ids=clip_ids)
        np.testing.assert_array_equal(some, together[clip_ids])
    assert len({tuple(row) for row in together.tolist()}) == 5


def test_longer_draw_starts_like_a_shorter_one(params):
    progress = []
    long, _ = generate(MODEL, params, KEY, 1, 1000, on_progress=progress.append)
    short, _ = generate(MODEL, params, KEY, 1, 7)
    assert long.shape == (1, 1000)
    assert progress[-1] == 1000
    np.testing.assert_array_equal(long[:, :7], short)


def test_logits_that_are_not_finite_stop_with_their_place(params):
    broken = jax.tree.map(jnp.copy, params)
    broken["head"]["projection"]["bias"] = jnp.full((16,), jnp.nan)
    with pytest.raises(
        FloatingPointError, match=r"of clip 5 are not finite at sample 0; .*earlier"
    ):
        generate(MODEL, broken, KEY, 2, 10, clip_ids=[5, 6])
    with pytest.raises(FloatingPointError, match="clip 0 are not finite at sample 0"):
        generate(MODEL, broken, KEY, 2, 10, prompt=np.array([1, 2, 3]))


def with_table(params, *, broken=None):
    """A model whose codes are looked up, one of them in vain."""
    table = np.float32(np.random.default_rng(0).normal(size=(16, 8)))
    if broken is not None:
        table[broken] = np.nan
    return params | {"embedding": {"table": {"embedding": jnp.asarray(table)}}}


TABLE = dataclasses.replace(MODEL, embedding="table")


def test_fault_in_a_later_block_is_told_at_its_sample(params):
    whole, _ = generate(TABLE, with_table(params), KEY, 1, 40)
    seen = [[MODEL.initial_code, *whole[0, :t]] for t in range(40)]
    sample = next(t for t in range(7, 40) if whole[0, t] not in seen[t])
    broken = with_table(params, broken=whole[0, sample])
    stream = StreamingGenerator(TABLE, broken, KEY, 1, block_samples=3)
    with pytest.raises(FloatingPointError, match=f"not finite at sample {sample + 1};"):
        for _ in itertools.islice(stream, 20):
            pass
    assert stream.position == (sample + 1) // 3 * 3
    with pytest.raises(FloatingPointError, match=f"not finite at sample {sample + 1};"):
        generate(TABLE, broken, KEY, 1, 42, prompt=whole[0])


def test_a_fault_behind_the_end_is_none_of_the_clips(params):
    broken = with_table(params, broken=5)
    prompt = np.array([1, 5])
    stream = StreamingGenerator(TABLE, broken, KEY, 1, prompt=prompt, length=2, block_samples=4)
    assert list(stream) == [] and stream.position == 2


def test_stream_of_a_length_ends(params):
    stream = StreamingGenerator(MODEL, params, KEY, 2, length=10, block_samples=4)
    blocks = list(stream)
    assert [block.codes.shape[1] for block in blocks] == [4, 4, 2] and stream.position == 10
    whole, _ = generate(MODEL, params, KEY, 2, 10)
    np.testing.assert_array_equal(np.concatenate([b.codes for b in blocks], axis=1), whole)


def test_clock_does_not_overflow(params):
    """After 2^31 samples of a 32-bit clock the stream goes on as after few, but for its keys."""
    stream, other = (StreamingGenerator(MODEL, params, KEY, 2, block_samples=8) for _ in range(2))
    next(stream), next(other)
    period = MODEL.total_pool_factor
    far = (2**31 - 8) // period * period  # The last blocks before the overflow.
    other._state = dataclasses.replace(other._state, time=jnp.int32(far))
    for _ in range(3):
        np.testing.assert_array_equal(next(stream).codes, next(other).codes)
    assert int(stream._state.time) < 2 * period + 8
    stream.position = 2**32 + 5  # The keys' clock wraps without an error.
    next(stream)


def test_prime_goes_on_from_any_state(params):
    codes = np.random.default_rng(1).integers(0, 16, (2, 31)).astype(np.int32)
    whole, expected = prime(MODEL, params, init_state(MODEL, 2), codes)
    state, log_probs = init_state(MODEL, 2), []
    for part in (codes[:, :3], codes[:, 3:20], codes[:, 20:]):
        state, some = prime(MODEL, params, state, part)
        log_probs.append(some)
    np.testing.assert_allclose(np.concatenate(log_probs, axis=1), expected, atol=2e-4)
    for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples 0 .* must be at least 1"),
        ({"clip_ids": [0, -1]}, r"clip_ids \[0, -1\] must be 2 numbers that are not negative"),
        ({"clip_ids": [0]}, r"clip_ids \[0\] must be 2"),
        ({"labels": np.array([0, 1])}, "the model has no classes"),
        ({"guidance": 2.0}, "guidance 2.0 needs labels"),
        ({"guidance": -1.0}, "guidance -1.0 must be finite and not negative"),
        ({"length": 0}, "length 0 must be at least 1"),
        ({"prompt": np.zeros(0, int)}, "prompt is empty"),
        ({"prompt": np.zeros(6, int)}, "prompt of 6 samples is longer than the clip of 5"),
        ({"prompt": np.zeros((3, 2), int)}, r"shape \(3, 2\); give codes \[t\] .* or \[2, t\]"),
        ({"prompt": np.array([0.5, 1.0])}, "prompt is of type float64; give codes"),
        ({"prompt": np.array([3, 16])}, "holds codes 3 to 16; the model knows 0 to 15"),
    ],
)
def test_numbers_out_of_range(params, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(MODEL, params, KEY, **{"num_samples": 2, "length": 5, **arguments})
