import dataclasses
import json
import os
import pathlib

import jax
import numpy as np
import pytest

from poolformer_jax.classifier.config import ClassifierConfig
from poolformer_jax.classifier.files import (
    SavedClassifier,
    load_classifier,
    save_classifier,
)
from tests.classifier.random_classifier import random_classifier

CONFIG = ClassifierConfig(kind="small", num_classes=3, mel_padding="constant")
NAMES = ("zero", "one", "two")


@pytest.fixture(scope="module")
def classifier():
    params, stats = random_classifier(CONFIG)
    return SavedClassifier(
        config=CONFIG, class_names=NAMES, source={"steps": 3}, params=params, stats=stats
    )


def test_round_trip_is_exact(classifier, tmp_path):
    save_classifier(tmp_path / "new" / "folder", classifier)
    loaded = load_classifier(tmp_path / "new" / "folder")
    for name in ("config", "class_names", "source"):
        assert getattr(loaded, name) == getattr(classifier, name)
    # Also of the same structure: the map fails otherwise.
    for name in ("params", "stats"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(loaded, name), getattr(classifier, name)
        )
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "classifier.json",
        "classifier.npz",
    ]


def test_hash_depends_on_what_decides_the_outputs(classifier, tmp_path):
    params = jax.tree.map(np.array, classifier.params)
    params["head"]["bias"][1] = 1e-30
    constant = dataclasses.replace(CONFIG, mel_padding="reflect")
    changed = {
        "same": {},
        "source": {"source": {"steps": 4}},
        "config": {"config": constant},
        "class_names": {"class_names": ("zero", "two", "one")},
        "params": {"params": params},
    }
    hashes = {}
    for name, change in changed.items():
        save_classifier(tmp_path / name, dataclasses.replace(classifier, **change))
        hashes[name] = load_classifier(tmp_path / name).sha256
    assert hashes["same"] == hashes["source"]
    assert len(set(hashes.values())) == 4


def test_interrupted_save_leaves_the_old_one_or_an_error(classifier, tmp_path, monkeypatch):
    save_classifier(tmp_path, classifier)
    params = jax.tree.map(lambda a: a + 1, classifier.params)
    replace = pathlib.Path.replace
    for file, outcome in (("classifier.npz", "old"), ("classifier.json", "error")):

        def replace_or_fail(path, target, file=file):
            if target.name == file:
                raise KeyboardInterrupt
            return replace(path, target)

        monkeypatch.setattr(pathlib.Path, "replace", replace_or_fail)
        with pytest.raises(KeyboardInterrupt):
            save_classifier(tmp_path, dataclasses.replace(classifier, params=params))
        if outcome == "old":
            loaded = load_classifier(tmp_path)
            jax.tree.map(np.testing.assert_array_equal, loaded.params, classifier.params)
        else:
            with pytest.raises(ValueError, match=r"of another model than its description"):
                load_classifier(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2  # No temporary file is left.


def test_damage_is_noticed(classifier, tmp_path):
    save_classifier(tmp_path, classifier)
    content = bytearray((tmp_path / "classifier.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "classifier.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"classifier\.npz is damaged, .* SHA-256 differs"):
        load_classifier(tmp_path)
    (tmp_path / "classifier.json").write_text("{")
    with pytest.raises(ValueError, match=r"classifier\.json cannot be read"):
        load_classifier(tmp_path)
    (tmp_path / "classifier.json").write_text('{"config": {}, "source": {}}')
    with pytest.raises(ValueError, match=r"classifier\.json lacks arrays_sha256, class_names"):
        load_classifier(tmp_path)


def test_missing_classifier_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"holds no classifier \(classifier.json is missing\); ma"):
        load_classifier(tmp_path)


def test_arrays_of_another_architecture_are_listed(classifier, tmp_path):
    save_classifier(tmp_path, classifier)
    path = tmp_path / "classifier.json"
    description = json.loads(path.read_text())
    description["config"]["num_classes"] = 4
    description["class_names"] = ["a", "b", "c", "d"]
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"npz: params/head/bias is float32 \(3,\), not fl.* \(4,"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("change", [{"dropout": 0.1}, {"num_classes": 1}])
def test_configuration_of_another_version_is_an_error(classifier, tmp_path, change):
    save_classifier(tmp_path, classifier)
    path = tmp_path / "classifier.json"
    description = json.loads(path.read_text())
    description["config"] |= change
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"classifier\.json is of another version: .*; train or"):
        load_classifier(tmp_path)


def test_others_may_read_the_files(classifier, tmp_path):
    before = os.umask(0o022)
    try:
        save_classifier(tmp_path, classifier)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), r"class_names \('a', 'b'\) are 2 for num_classes 3"),
        (("a", "b", "a"), r"has a name twice"),
    ],
)
def test_class_names_fit_the_classes(classifier, names, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(classifier, class_names=names)
