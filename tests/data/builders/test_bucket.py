"""Data sets in a bucket: a file system in memory stands in for gs://."""

import shutil
import subprocess
import sys

import pytest

from poolformer_jax.data.builders import prepare
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.source import open_splits
from tests.data.builders import published

URL = "gs://bucket/data/"
FOLDER = "/bucket/data/sc09/partial/1.0.0"


CONFIG = DataConfig(name="sc09", data_dir=URL, partial=True)


@pytest.fixture
def filled(bucket, tmp_path):
    archive = published.write_zip(tmp_path / "sc09.zip", published.sc09_files())
    prepare.prepare(CONFIG, manual_dir=archive)
    return bucket


def cached_folders(tmp_path):
    return sorted((tmp_path / "cache").rglob("manifest.json"))


def test_what_is_prepared_in_a_bucket_is_read_from_disk(filled, tmp_path):
    assert f"{FOLDER}/manifest.json" in filled.store
    assert not list((tmp_path / "cache").rglob("*"))  # Built in a temporary folder, and uploaded.
    source = open_splits(CONFIG)["train"]
    names = {example["name"].decode() for example in source}
    assert len(names) == len(source) == 40
    (manifest,) = cached_folders(tmp_path)
    # The second time only the manifest is read from the bucket.
    for path in filled.store:
        if not path.endswith("manifest.json"):
            filled.store[path].truncate(0)
    assert len(open_splits(CONFIG)["test"]) == 20
    assert cached_folders(tmp_path) == [manifest]


def test_damage_on_disk_is_copied_anew(filled, tmp_path):
    open_splits(CONFIG)["train"]
    (shard,) = (tmp_path / "cache").rglob("sc09-train.array_record*")
    shard.write_bytes(b"damaged")
    assert len(open_splits(CONFIG)["train"]) == 40
    assert shard.stat().st_size > 10_000


def test_another_data_set_at_the_same_place_is_copied_too(filled, tmp_path):
    open_splits(CONFIG)["train"]
    filled.store.clear()
    archive = published.write_zip(tmp_path / "more.zip", published.sc09_files(takes=5))
    prepare.prepare(CONFIG, manual_dir=archive)
    assert len(open_splits(CONFIG)["train"]) == 60
    assert len(cached_folders(tmp_path)) == 2


def test_complete_data_set_is_not_uploaded_again(filled, caplog):
    caplog.set_level("INFO")
    prepare.prepare(CONFIG)
    assert "gs://bucket/data/sc09/partial/1.0.0 is complete already" in caplog.text


def test_half_an_upload_is_no_data_set_and_is_repaired(filled, tmp_path, monkeypatch):
    del filled.store[f"{FOLDER}/manifest.json"]
    with pytest.raises(FileNotFoundError, match=r"holds no complete data set.*prepare_data"):
        open_splits(CONFIG)["train"]
    prepare.prepare(CONFIG, manual_dir=tmp_path / "sc09.zip")
    shard = f"{FOLDER}/sc09-train.array_record-00000-of-00001"
    filled.store[shard].truncate(100)  # A manifest, but not what it promises.
    with pytest.raises(OSError, match=r"is damaged: .*has 100 bytes.*prepare the data set again"):
        open_splits(CONFIG)["train"]
    assert not cached_folders(tmp_path)
    prepare.prepare(CONFIG, manual_dir=tmp_path / "sc09.zip")
    assert len(open_splits(CONFIG)["train"]) == 40


def test_garbled_manifest_is_repaired_too(filled, tmp_path):
    filled().pipe(f"{FOLDER}/manifest.json", b"garbage")
    with pytest.raises(OSError, match=r"1.0.0/manifest.json is not a manifest; prepare the data"):
        open_splits(CONFIG)
    prepare.prepare(CONFIG, manual_dir=tmp_path / "sc09.zip")
    assert len(open_splits(CONFIG)["train"]) == 40


def test_copy_that_was_killed_is_cleaned_up(filled, tmp_path):
    open_splits(CONFIG)["train"]
    (manifest,) = cached_folders(tmp_path)
    leftover = manifest.parents[1] / "incomplete.abc"
    shutil.move(manifest.parent, leftover)
    assert len(open_splits(CONFIG)["train"]) == 40
    assert not leftover.exists()


def test_unreachable_bucket_is_an_error_of_its_own(filled, monkeypatch):
    monkeypatch.setattr(filled, "down", True)
    with pytest.raises(OSError, match=r"cannot read gs://bucket/data/sc09.*unplugged.*credentials"):
        open_splits(CONFIG)["train"]


def test_unwritable_bucket_is_found_before_anything_is_built(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "down", True)
    monkeypatch.setattr(bucket, "exists", lambda *_, **__: False)
    monkeypatch.setattr(prepare, "_build", lambda *_: pytest.fail("it was built"))
    with pytest.raises(OSError, match=r"cannot write gs://bucket/data/sc09.*unplugged"):
        prepare.prepare(CONFIG, manual_dir=tmp_path)


@pytest.mark.slow
def test_missing_client_names_the_extra():
    code = """
import os, sys
os.environ["EPATH_USE_TF"] = "false"
sys.modules["gcsfs"] = None
from poolformer_jax.data.source import open_splits
from poolformer_jax.data.config import DataConfig
try:
    open_splits(DataConfig(name="sc09", data_dir="gs://bucket/data"))["train"]
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "for gs:// run: pip install -e '.[gcs]'" in result.stdout, result
