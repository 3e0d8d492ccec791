import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.mesh_config import MeshConfig
from poolformer_jax.ops.draw import Draw
from poolformer_jax.sampling import streaming
from poolformer_jax.sampling.streaming import StreamingGenerator, generate, prime
from tests.training.tiny import MODEL as CONFIG

MODEL = CONFIG.build()
KEY = jax.random.key(3)
LENGTH = 32  # Most tests draw two clips of it: one program.


@pytest.fixture(scope="module")
def params():
    params = MODEL.init_params(jax.random.key(0))
    # Logits far apart, so that rounding cannot change what is drawn.
    params["head"]["projection"]["kernel"] *= 5.0
    return params


@pytest.fixture(scope="module")
def whole(params):
    return generate(MODEL, params, KEY, 2, LENGTH)


@functools.cache
def logits_function():
    return jax.jit(MODEL.logits)


def whole_logits(params, codes):
    """Of the parallel pass over whole clips."""
    return np.asarray(logits_function()(params, jnp.asarray(codes))[0])


@pytest.mark.parametrize("prompt_length", [pytest.param(0, marks=pytest.mark.nightly), 7])
def test_sampling_is_ancestral(params, prompt_length):
    """Every draw follows the distribution that the whole model gives to its prefix."""
    prompt = np.arange(2 * prompt_length).reshape(2, -1) % 16 if prompt_length else None
    draw = Draw(temperature=0.7, top_k=9)
    codes, log_probs = generate(MODEL, params, KEY, 2, 30, prompt=prompt, draw=draw)
    logits = whole_logits(params, codes)
    tenth = np.sort(logits, axis=-1)[..., -10:-9]
    drawn_from = jnp.where(logits > tenth, logits / 0.7, -jnp.inf)
    clip_keys = jax.vmap(functools.partial(jax.random.fold_in, KEY))(jnp.arange(2))
    fold_times = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)), in_axes=(0, None))
    keys = fold_times(clip_keys, jnp.arange(30))
    expected = jax.vmap(jax.vmap(jax.random.categorical))(keys, drawn_from)
    if prompt is not None:
        np.testing.assert_array_equal(codes[:, :prompt_length], prompt)
    np.testing.assert_array_equal(codes[:, prompt_length:], expected[:, prompt_length:])
    # The log-probabilities are the model's own, whatever the codes are drawn from.
    table = np.asarray(jax.nn.log_softmax(logits))
    expected = np.take_along_axis(table, codes[..., None], axis=-1)[..., 0]
    # Float32: 2e-4 for logits of order 10.
    np.testing.assert_allclose(log_probs, expected, atol=2e-4)
    np.testing.assert_allclose(log_probs.sum(axis=1), expected.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("parts", [(31,), (3, 17, 11), (1, 30)], ids=str)
def test_priming_in_parts_gives_the_state_of_stepping(params, monkeypatch, parts):
    monkeypatch.setattr(streaming, "_PRIME_SAMPLES", 16)  # Eight of each clip in a pass.
    codes = np.random.default_rng(0).integers(0, 16, (2, 31)).astype(np.int32)
    stepped, expected, step = MODEL.init_state(2), [], jax.jit(MODEL.step_log_probs)
    for t in range(31):
        one, stepped = step(params, codes[:, t], stepped)
        expected.append(one)
    state, log_probs, position = MODEL.init_state(2), [], 0
    for count in parts:
        part = codes[:, position : position + count]
        state, some = prime(MODEL, params, state, part)
        log_probs.append(some)
        position += count
    np.testing.assert_allclose(
        np.concatenate(log_probs, axis=1), np.stack(expected, axis=1), atol=2e-4
    )
    ours, theirs = (step(params, codes[:, 0], one) for one in (state, stepped))
    np.testing.assert_allclose(ours[0], theirs[0], atol=2e-4)
    # But for sums of windows that are done with.
    for field in ("previous", "position"):
        np.testing.assert_array_equal(getattr(ours[1], field), getattr(theirs[1], field))


@pytest.mark.parametrize("cut", [1, 13, 14])
def test_a_clip_continues_a_prompt_of_itself(params, whole, cut):
    again, _ = generate(MODEL, params, KEY, 2, LENGTH, prompt=whole.codes[:, :cut])
    np.testing.assert_array_equal(again, whole.codes)


@pytest.mark.slow
def test_one_prompt_serves_all_clips(params):
    codes, _ = generate(MODEL, params, KEY, 3, 30, prompt=np.array([1, 2, 3]))
    assert np.all(codes[:, :3] == [1, 2, 3])
    assert len({tuple(row) for row in codes.tolist()}) == 3


@pytest.mark.parametrize("length", [None, LENGTH])
def test_blocks_are_the_clip_whatever_their_length(params, whole, length):
    stream = StreamingGenerator(MODEL, params, KEY, 2, block_samples=12, length=length)
    blocks = list(itertools.islice(stream, 3))
    assert [block.codes.shape for block in blocks] == [(2, 12)] * 2 + [(2, 8 if length else 12)]
    assert stream.position == (length or 36)
    if length is not None:
        assert next(stream, None) is None
    codes, log_probs = (np.concatenate(part, axis=1) for part in zip(*blocks, strict=True))
    np.testing.assert_array_equal(codes[:, :LENGTH], whole.codes)
    np.testing.assert_allclose(log_probs[:, :LENGTH], whole.log_probs, atol=1e-5)


@pytest.fixture(scope="module")
def eight(params):
    return generate(MODEL, params, KEY, 8, LENGTH).codes


@pytest.mark.parametrize("clip_ids", [[6], [4, 3], [1, 1]], ids=str)
def test_a_clip_does_not_depend_on_those_beside_it(params, eight, clip_ids):
    some, _ = generate(MODEL, params, KEY, len(clip_ids), LENGTH, clip_ids=clip_ids)
    np.testing.assert_array_equal(some, eight[clip_ids])
    assert len({tuple(row) for row in eight.tolist()}) == 8


def test_eight_devices_draw_like_one(params, eight):
    mesh = sharding.make_mesh()
    assert mesh.size == 8
    everywhere = jax.device_put(params, sharding.replicated(mesh))
    prompt = eight[:, :4]
    drawn, _ = generate(MODEL, everywhere, KEY, 8, LENGTH, prompt=prompt, mesh=mesh)
    np.testing.assert_array_equal(drawn, eight)


@pytest.mark.parametrize(
    "place", ["anywhere", "device", "mesh", "given mesh", "eight devices", "split"]
)
def test_a_block_is_compiled_once(params, caplog, place):
    mesh = sharding.make_mesh(devices=jax.devices()[: 8 if place == "eight devices" else 1])
    if place == "device":
        params = jax.device_put(params, jax.devices()[0])
    elif place == "split":
        mesh = sharding.make_mesh(MeshConfig(data=4, fsdp=2))
        rules = MODEL.parameter_rules
        params = jax.device_put(params, sharding.state_sharding(mesh, params, rules))
    elif place != "anywhere":
        params = jax.device_put(params, sharding.replicated(mesh))
    streaming._compile_block.cache_clear()
    stream = StreamingGenerator(
        MODEL,
        params,
        KEY,
        8,
        prompt=np.arange(5),
        block_samples=4,
        mesh=mesh if place in ("given mesh", "eight devices") else None,
    )
    counts = []
    with jax.log_compiles():
        for _ in range(3):
            next(stream)
            counts.append(sum("draw_block" in text and "XLA" in text for text in caplog.messages))
    assert counts == [1, 1, 1]


def test_longer_draw_starts_like_a_shorter_one(params, whole, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK_SAMPLES", LENGTH)
    progress = []
    long, _ = generate(MODEL, params, KEY, 2, 100, on_progress=progress.append)
    assert long.shape == (2, 100) and progress == [32, 64, 96, 100]
    np.testing.assert_array_equal(long[:, :LENGTH], whole.codes)


def test_logits_that_are_not_finite_stop_with_their_place(params):
    broken = jax.tree.map(jnp.copy, params)
    broken["head"]["projection"]["bias"] = jnp.full((16,), jnp.nan)
    with pytest.raises(
        FloatingPointError, match=r"of clip 5 are not finite at sample 0; .*earlier"
    ):
        generate(MODEL, broken, KEY, 2, LENGTH, clip_ids=[5, 6])
    with pytest.raises(FloatingPointError, match="clip 0 are not finite at sample 0"):
        generate(MODEL, broken, KEY, 2, LENGTH, prompt=np.arange(13))


def with_table(params, *, broken=None):
    """A model whose codes are looked up, one of them in vain."""
    table = np.float32(np.random.default_rng(0).normal(size=(16, 8)))
    if broken is not None:
        table[broken] = np.nan
    return params | {"embedding": {"table": {"embedding": jnp.asarray(table)}}}


TABLE = dataclasses.replace(CONFIG, embedding="table").build()


def test_fault_in_a_later_block_is_told_at_its_sample(params):
    stream = StreamingGenerator(TABLE, with_table(params), KEY, 1, block_samples=3)
    whole = np.concatenate([block.codes for block in itertools.islice(stream, 14)], axis=1)[0]
    seen = [[CONFIG.initial_code, *whole[:t]] for t in range(40)]
    sample = next(t for t in range(7, 40) if whole[t] not in seen[t])
    broken = with_table(params, broken=whole[sample])
    stream = StreamingGenerator(TABLE, broken, KEY, 1, block_samples=3)
    with pytest.raises(FloatingPointError, match=f"not finite at sample {sample + 1};"):
        for _ in itertools.islice(stream, 20):
            pass
    assert stream.position == (sample + 1) // 3 * 3
    with pytest.raises(FloatingPointError, match=f"not finite at sample {sample + 1};"):
        generate(TABLE, broken, KEY, 1, 43, prompt=whole)


def test_a_fault_behind_the_end_is_none_of_the_clips(params):
    broken = with_table(params, broken=5)
    prompt = np.array([1, 5])
    stream = StreamingGenerator(TABLE, broken, KEY, 1, prompt=prompt, length=2, block_samples=3)
    assert list(stream) == [] and stream.position == 2


def test_clock_does_not_overflow(params):
    """After 2^32 samples the keys start again; the model's position stays small all the time."""
    stream, other = (StreamingGenerator(MODEL, params, KEY, 2, block_samples=7) for _ in range(2))
    other.position = 2**32
    for _ in range(3):
        np.testing.assert_array_equal(next(stream).codes, next(other).codes)
    assert other.position == 2**32 + 21
    assert int(stream._state.position) < 2 * MODEL.chunk_multiple
    stream.position = 2**32 - 3  # The keys' clock wraps within a block, without an error.
    next(stream)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clips": 0}, "num_clips 0 .* must be at least 1"),
        ({"clip_ids": [0, -1]}, r"clip_ids \[0, -1\] must be 2 numbers that are not negative"),
        ({"clip_ids": [0]}, r"clip_ids \[0\] must be 2"),
        ({"labels": np.array([0, 1])}, "the model has no classes"),
        ({"draw": Draw(guidance=2.0)}, "guidance 2.0 needs labels"),
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
        generate(MODEL, params, KEY, **{"num_clips": 2, "length": 5, **arguments})
