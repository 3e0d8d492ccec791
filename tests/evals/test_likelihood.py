import jax
import numpy as np
import pytest

from poolformer_jax.evals.likelihood import make_likelihood_evaluator
from poolformer_jax.models.poolformer import init_params
from tests import oracle
from tests.training.tiny import LENGTH, MODEL, make_batch


@pytest.fixture(scope="module")
def params():
    return init_params(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def evaluate():
    def put_batch(batch):
        return jax.tree.map(jax.numpy.asarray, dict(batch))

    return make_likelihood_evaluator(MODEL, put_batch=put_batch)


def in_batches(clips, size):
    """The last batch is filled up with rows of length 0."""
    for start in range(0, len(clips["lengths"]), size):
        rows = {name: array[start : start + size] for name, array in clips.items()}
        missing = size - len(rows["lengths"])
        yield {
            "tokens": np.pad(rows["tokens"], ((0, missing), (0, 0)), constant_values=8),
            "lengths": np.pad(rows["lengths"], (0, missing)),
        }


def test_likelihood_is_the_mean_over_all_samples(params, evaluate):
    clips = make_batch(0, batch_size=10)
    result = evaluate(params, in_batches(clips, 4))
    logits = oracle.forward(MODEL, jax.tree.map(np.asarray, params), clips["tokens"])
    expected = oracle.bits(logits, clips["tokens"], clips["lengths"])
    assert result.bits_per_sample == pytest.approx(expected, rel=1e-6)  # float32 logits
    assert result.num_clips == 10
    assert result.num_samples == clips["lengths"].sum()


def test_likelihood_does_not_depend_on_the_batch_size(params, evaluate):
    clips = make_batch(1, batch_size=10)
    results = [evaluate(params, in_batches(clips, size)) for size in (1, 3, 10)]
    assert len({(r.num_clips, r.num_samples) for r in results}) == 1
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
    assert a == b


def test_evaluation_can_be_cut_short(params, evaluate):
    answers = iter([False, True])
    batches = in_batches(make_batch(3, batch_size=12), 4)
    assert evaluate(params, batches, lambda: next(answers)) is None
    assert len(list(batches)) == 1  # Stopped at the second batch.


def test_nothing_to_evaluate_is_an_error(params, evaluate):
    with pytest.raises(ValueError, match="no clip has a sample"):
        evaluate(params, [])
