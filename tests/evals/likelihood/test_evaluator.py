import dataclasses
import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest

from poolformer_jax import sharding
from poolformer_jax.evals.likelihood.evaluator import (
    choose_chunk_length,
    make_likelihood_evaluator,
)
from tests import oracle
from tests.training.tiny import LENGTH, make_batch
from tests.training.tiny import MODEL as CONFIG

MODEL = CONFIG.build()
ONE_DEVICE = sharding.make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def params():
    return MODEL.init_params(jax.random.key(0))


@pytest.fixture(scope="module")
def evaluate():
    return make_likelihood_evaluator(MODEL, ONE_DEVICE)


@pytest.fixture(scope="module")
def evaluate_in_chunks():
    """Of two samples."""
    return make_likelihood_evaluator(MODEL, ONE_DEVICE, chunk_length=2)


def in_batches(clips, size):
    """The last batch is filled up with rows of length 0."""
    for start in range(0, len(clips["lengths"]), size):
        rows = {name: array[start : start + size] for name, array in clips.items()}
        missing = size - len(rows["lengths"])
        yield {
            "tokens": np.pad(rows["tokens"], ((0, missing), (0, 0)), constant_values=8),
            "lengths": np.pad(rows["lengths"], (0, missing)),
            "indices": np.arange(start, start + size, dtype=np.int32),
        }


def oracle_bits(params, clips):
    """Bits of every sample, NaN where it does not count; float64 from the logits on."""
    logits = oracle.forward(CONFIG, jax.tree.map(np.asarray, params), clips["tokens"])
    bits = np.full(clips["tokens"].shape, np.nan)
    for b, length in enumerate(clips["lengths"]):
        for t in range(length):
            scores = logits[b, t]
            nats = np.logaddexp.reduce(scores) - scores[clips["tokens"][b, t]]
            bits[b, t] = nats / math.log(2)
    return bits


def test_likelihood_is_the_mean_over_all_samples(params, evaluate):
    clips = make_batch(0, batch_size=10)
    result = evaluate(params, in_batches(clips, 4))
    logits = oracle.forward(CONFIG, jax.tree.map(np.asarray, params), clips["tokens"])
    expected = oracle.bits(logits, clips["tokens"], clips["lengths"])
    assert result.bits_per_sample == pytest.approx(expected, rel=1e-6)  # float32 logits
    assert result.summary() == {
        "bits_per_sample": result.bits_per_sample,
        "num_clips": 10,
        "num_samples": clips["lengths"].sum(),
    }


def test_clips_and_positions_equal_the_oracle(params, evaluate):
    clips = make_batch(0, batch_size=10)
    clips["lengths"][3] = LENGTH
    result = evaluate(params, in_batches(clips, 4))
    expected = oracle_bits(params, clips)
    # Float32 logits of about 1: 1e-6 bits a sample, and up to 12 samples.
    np.testing.assert_allclose(result.clip_bits, np.nansum(expected, axis=1), atol=1e-5)
    np.testing.assert_allclose(result.position_bits, np.nansum(expected, axis=0), atol=1e-5)
    np.testing.assert_array_equal(result.clip_samples, clips["lengths"])
    np.testing.assert_array_equal(result.position_clips, np.sum(~np.isnan(expected), axis=0))
    np.testing.assert_array_equal(result.clip_indices, np.arange(10))
    # The same float64 numbers, added up along the other axis.
    assert result.position_bits.sum() == pytest.approx(result.clip_bits.sum(), rel=1e-14)


def test_clips_come_in_the_order_of_the_split(params, evaluate):
    clips = make_batch(0, batch_size=10)
    expected = evaluate(params, in_batches(clips, 4))
    mixed = [dict(batch) for batch in in_batches(clips, 4)][::-1]
    for batch in mixed:
        batch |= {name: array[[2, 0, 3, 1]] for name, array in batch.items()}
    result = evaluate(params, mixed)
    np.testing.assert_array_equal(result.clip_indices, np.arange(10))
    np.testing.assert_array_equal(result.clip_samples, expected.clip_samples)
    # A row's place in its batch changes nothing but rounding.
    np.testing.assert_allclose(result.clip_bits, expected.clip_bits, rtol=1e-6)


@pytest.mark.parametrize("chunk_length", [2, 8])
def test_chunks_equal_whole_clips(params, evaluate, evaluate_in_chunks, chunk_length):
    clips = make_batch(1, batch_size=4)
    in_chunks = evaluate_in_chunks
    if chunk_length != 2:
        in_chunks = make_likelihood_evaluator(MODEL, ONE_DEVICE, chunk_length=chunk_length)
    whole, chunked = (f(params, in_batches(clips, 4)) for f in (evaluate, in_chunks))
    # Per sample; other lengths of the scan, other rounding.
    np.testing.assert_allclose(
        chunked.clip_bits / chunked.clip_samples, whole.clip_bits / whole.clip_samples, atol=1e-6
    )
    assert chunked.bits_per_sample == pytest.approx(whole.bits_per_sample, abs=1e-6)
    np.testing.assert_array_equal(chunked.position_clips, whole.position_clips)


def test_eight_devices_evaluate_any_length_like_one_with_the_program_of_a_chunk(
    params, evaluate_in_chunks, caplog
):
    mesh = sharding.make_mesh()
    assert mesh.size == 8
    in_chunks = make_likelihood_evaluator(MODEL, mesh, chunk_length=4)
    everywhere = jax.device_put(params, sharding.replicated(mesh))
    clips = make_batch(0, batch_size=20)  # Three batches of 8, the last one with four clips.
    longer = {"tokens": np.tile(clips["tokens"], (1, 10)), "lengths": 10 * clips["lengths"]}
    with jax.log_compiles():
        result = in_chunks(everywhere, in_batches(clips, 8))
        programs = [m for m in caplog.messages if "Compiling jit(score_chunk)" in m]
        assert len(programs) == 1  # The state goes back in as it came out.
        caplog.clear()
        long_result = in_chunks(everywhere, in_batches(longer, 8))
        assert not any("Compiling" in message for message in caplog.messages)
    np.testing.assert_array_equal(long_result.clip_samples, longer["lengths"])
    expected = evaluate_in_chunks(params, in_batches(clips, 4))
    np.testing.assert_array_equal(result.clip_samples, expected.clip_samples)
    np.testing.assert_allclose(
        result.clip_bits / result.clip_samples,
        expected.clip_bits / expected.clip_samples,
        rtol=0,
        atol=1e-6,
    )


WIDE = dataclasses.replace(CONFIG, num_codes=256, initial_code=128).build()


def temporary_bytes(mesh, length, clips=8):
    """What the program of a chunk needs beside its arguments and results."""

    def score(params, codes):
        log_probs, state = WIDE.log_probs(params, codes, WIDE.init_state(clips))
        return log_probs, sharding.replicate(mesh, state)

    params = sharding.abstract_state(mesh, lambda: WIDE.init_params(jax.random.key(0)))
    codes = jax.ShapeDtypeStruct((clips, length), "int32", sharding=sharding.batch_sharding(mesh))
    program = jax.jit(score).lower(params, codes).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_program_of_a_chunk_needs_the_memory_of_a_chunk_on_each_device(all_optimizations):
    chunk = temporary_bytes(ONE_DEVICE, 1_600)
    # Nearly all of it grows with the chunk: at least 256 logits in float32 a sample.
    assert chunk > 8 * 1_600 * 256 * 4
    assert chunk < 0.11 * temporary_bytes(ONE_DEVICE, 16_000)
    # Rows are computed where they are: an eighth of the logits, nothing of the other devices' rows.
    assert temporary_bytes(sharding.make_mesh(), 1_600) < 0.2 * chunk


@pytest.mark.nightly
def test_ten_times_longer_clips_need_no_more_memory():
    peaks = []
    for length in (16_000, 160_000):
        command = [
            sys.executable,
            "-m",
            "tests.evals.likelihood.measure_memory",
            str(length),
            "16000",
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        result = json.loads(run.stdout)
        print(result)
        assert result["num_samples"] == 4 * length
        peaks.append(result["peak_bytes"])
    # Measured: 620 to 689 MB, 669 to 703 MB (40 times longer: 686 MB), and 1,361 MB if clips ten
    # times longer are read at once. The allocator makes the difference between equal runs.
    assert peaks[1] < peaks[0] + 200e6


def test_length_need_not_be_a_multiple_of_the_pooling_factor(params, evaluate):
    clips = make_batch(2, batch_size=4)
    odd = {"tokens": clips["tokens"][:, :11], "lengths": np.minimum(clips["lengths"], 11)}
    even = {"tokens": clips["tokens"], "lengths": odd["lengths"]}
    result, expected = (evaluate(params, in_batches(c, 4)) for c in (odd, even))
    np.testing.assert_array_equal(result.clip_bits, expected.clip_bits)  # The same program.


def test_likelihood_does_not_depend_on_the_batch_size(params, evaluate):
    clips = make_batch(1, batch_size=10)
    results = [evaluate(params, in_batches(clips, size)) for size in (1, 4, 10)]
    for result in results:
        np.testing.assert_array_equal(result.clip_samples, clips["lengths"])
    bits = [r.bits_per_sample for r in results]
    # Another batch size compiles to another program: the clips' rounding may differ.
    assert max(bits) - min(bits) < 1e-6


def test_padding_does_not_count(params, evaluate):
    clips = make_batch(2, batch_size=4)
    other = clips["tokens"].copy()
    padding = np.arange(LENGTH) >= clips["lengths"][:, None]
    other[padding] = 3
    assert not np.array_equal(other, clips["tokens"])
    a = evaluate(params, in_batches(clips, 4))
    b = evaluate(params, in_batches({**clips, "tokens": other}, 4))
    np.testing.assert_array_equal(a.clip_bits, b.clip_bits)
    np.testing.assert_array_equal(a.position_bits, b.position_bits)


def test_evaluation_can_be_cut_short(params, evaluate):
    answers = iter([False, True])
    batches = in_batches(make_batch(3, batch_size=12), 4)
    assert evaluate(params, batches, lambda: next(answers)) is None
    assert len(list(batches)) == 1  # Stopped at the second batch.


def test_evaluation_can_be_cut_short_within_a_clip(params, evaluate_in_chunks):
    answers = iter([False, False, True])
    assert evaluate_in_chunks(params, in_batches(make_batch(3), 4), lambda: next(answers)) is None
    assert not list(answers)


def test_chunks_that_no_clip_reaches_are_not_computed(params, evaluate_in_chunks):
    asked = []
    clips = make_batch(3, batch_size=4) | {"lengths": np.array([5, 1, 0, 2], np.int32)}
    result = evaluate_in_chunks(params, in_batches(clips, 4), lambda: bool(asked.append(1)))
    assert len(asked) == 3  # Samples 0 and 1, 2 and 3, 4 and 5.
    np.testing.assert_array_equal(result.position_clips, [3, 2, 1, 1, 1])
    np.testing.assert_array_equal(result.clip_indices, [0, 1, 3])


def test_nothing_to_evaluate_is_an_error(params, evaluate):
    with pytest.raises(ValueError, match="no clip has a sample"):
        evaluate(params, [])


@pytest.mark.parametrize(
    ("length", "limit", "expected"),
    [(16_000, 16_000, 16_000), (16_000, 8_000, 8_000), (160_000, 16_000, 16_000)]
    + [(16_001, 16_000, 8_160), (100, 16_000, 160), (16_000, 100, 160), (40_000, 16_100, 13_440)],
)
def test_chunks_are_equal_and_within_the_limit(length, limit, expected):
    config = dataclasses.replace(CONFIG, pool_factors=(4, 4, 10), layers=(0, 0, 0, 1))
    chunk_length = choose_chunk_length(config, length, limit=limit)
    assert chunk_length == expected
    assert chunk_length % 160 == 0 and chunk_length <= max(160, limit)
    # With one chunk fewer they would be longer than the limit.
    fewer = -(-length // chunk_length) - 1
    assert fewer == 0 or -(-length // (fewer * 160)) * 160 > limit // 160 * 160


@pytest.mark.parametrize(
    ("chunk_length", "message"),
    [(5, "chunk length 5 .* of 2, .*; use 4 or 6"), (1, "use 2"), (-2, "length -2 .* use 2")],
)
def test_chunks_that_cannot_be_pooled_are_refused(chunk_length, message):
    with pytest.raises(ValueError, match=message):
        make_likelihood_evaluator(MODEL, ONE_DEVICE, chunk_length=chunk_length)
