import dataclasses

import numpy as np
import pytest
from scipy.special import log_softmax

from poolformer_jax.evals.scores.reference import ReferenceStatistics, reference_key

PARTS = {"classifier": "c0", "front_end": "f0", "manifest": "m0", "split": "train"}
KEY = reference_key(**PARTS)


def make_reference(seed=0, key=KEY, n=20, d=3):
    rng = np.random.default_rng(seed)
    log_probs = log_softmax(rng.standard_normal((n, 4)), axis=1)
    return ReferenceStatistics.of(rng.standard_normal((n, d)), log_probs, key=key, num_cells=2)


def flat(reference):
    out = {}

    def walk(value, name):
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{name}.{key}")
        else:
            out[name] = np.asarray(value).tolist()

    walk(dataclasses.asdict(reference), "")
    return out


def test_statistics_are_those_of_the_clips():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((30, 3))
    probs = rng.dirichlet(np.ones(4), 30)
    reference = ReferenceStatistics.of(features, np.log(probs), key=KEY, num_cells=5)
    # Sums of 30 float64 numbers.
    np.testing.assert_allclose(reference.gaussian.mean, features.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        reference.gaussian.covariance, np.cov(features, rowvar=False), rtol=1e-12, atol=1e-14
    )
    np.testing.assert_allclose(reference.probs, probs.mean(axis=0), rtol=1e-12)
    assert len(reference.cells.counts) == 5 and reference.cells.counts.sum() == 30


def test_file_holds_every_bit(tmp_path):
    reference = make_reference()
    reference.save(tmp_path / "new" / "reference.npz")
    assert flat(ReferenceStatistics.load(tmp_path / "new" / "reference.npz", key=KEY)) == flat(
        reference
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["reference.npz"]


def test_file_of_something_else_is_refused(tmp_path):
    make_reference().save(tmp_path / "reference.npz")
    other = reference_key(**PARTS | {"classifier": "c1"})
    with pytest.raises(ValueError, match=f"key {KEY}, expected {other}"):
        ReferenceStatistics.load(tmp_path / "reference.npz", key=other)


def test_missing_file_is_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError):
        ReferenceStatistics.load(tmp_path / "reference.npz", key=KEY)


def test_damage_never_passes(tmp_path):
    """Any cut, and any flipped byte: an error, or (in a field that nobody reads) no difference."""
    path = tmp_path / "reference.npz"
    reference = make_reference()
    reference.save(path)
    whole = path.read_bytes()
    expected = flat(reference)
    refused = 0
    for position in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 0xFF
        for content in (bytes(flipped), whole[:position]):
            path.write_bytes(content)
            try:
                loaded = ReferenceStatistics.load(path, key=KEY)
            except ValueError as error:
                assert "is damaged" in str(error)
                refused += 1
            else:
                assert flat(loaded) == expected, position
    # All cuts, and three quarters of the flips at least: the arrays and their headers.
    assert refused > 1.7 * len(range(0, len(whole), 7))


def test_key_depends_on_every_part():
    assert reference_key(**PARTS, num_cells=50) == KEY
    changes = {"classifier": "c1", "front_end": "f1", "manifest": "m1", "split": "test"}
    keys = {reference_key(**PARTS | {name: value}) for name, value in changes.items()}
    keys.add(reference_key(**PARTS, num_cells=49))
    # And none can be mistaken for another.
    swapped = reference_key(**PARTS | {"classifier": "f0", "front_end": "c0"})
    assert len({KEY, swapped, *keys}) == 7


def test_key_of_nothing_is_refused():
    with pytest.raises(ValueError, match="front_end is empty"):
        reference_key(**PARTS | {"front_end": ""})
