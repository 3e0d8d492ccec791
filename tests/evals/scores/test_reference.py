import dataclasses

import numpy as np
import pytest
from scipy.special import log_softmax

from poolformer_jax.evals.samples.wav_folder import FolderReport
from poolformer_jax.evals.scores.frechet import Gaussian, frechet_distance
from poolformer_jax.evals.scores.ndb import assign_cells, ndb
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


def test_held_out_clips_score_as_fresh_ones_and_a_part_of_the_reference_does_not():
    """Over 60 references of 600 clips with 16 features, of which 200 are scored."""
    rng = np.random.default_rng(0)
    log_probs = np.log(np.full((600, 4), 0.25))
    fids, shares = [], []
    for _ in range(60):
        clips, fresh = rng.standard_normal((600, 16)), rng.standard_normal((200, 16))
        whole = ReferenceStatistics.of(clips, log_probs, key=KEY, num_cells=10)
        others = whole.without(clips[:200], log_probs[:200])
        assert others.gaussian.count == others.cells.counts.sum() == 400
        pairs = ((whole, clips[:200]), (others, clips[:200]), (others, fresh), (whole, fresh))
        fids.append([frechet_distance(a.gaussian, Gaussian.of(b)) for a, b in pairs])
        shares.append([ndb(assign_cells(b, a.cells.centroids), a.cells.counts) for a, b in pairs])
    part, held_out, alike, beside_all = np.mean(fids, axis=0)
    # One FID varies by 12 %, so each mean by 1.6 %, and the ratio of two by 2.2 %: four times that.
    assert held_out == pytest.approx(alike, rel=0.09)
    assert part == pytest.approx(beside_all * (600 - 200) / (600 + 200), rel=0.09)
    # 600 tests at 5 %, whose share has a standard error of 0.9 %: four times that. Of a part
    # hardly any cell differs.
    part, held_out, *_ = np.mean(shares, axis=0)
    assert abs(held_out - 0.05) < 0.036 and part < 0.01


def test_all_clips_cannot_be_left_out():
    reference = make_reference(n=4)
    log_probs = np.log(np.full((4, 4), 0.25))
    with pytest.raises(ValueError, match="4 of 4 clips leave none"):
        reference.without(np.zeros((4, 3)), log_probs)


def test_file_holds_every_bit(tmp_path):
    report = FolderReport(num_clips=20, silent=("a.wav",), padded=3)
    reference = dataclasses.replace(make_reference(), report=report)
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
