import dataclasses
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from poolformer_jax.data.builders import espeak, prepare
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.source import describe_dataset, open_splits

pytest.importorskip("espeakng_loader")


@pytest.fixture
def copied_config(tiny_config, tmp_path, monkeypatch):
    """A copy of the tiny data set, whose rebuild is quick: its clips are a tone."""

    def tone(utterances, *, max_samples):
        del max_samples
        for _ in utterances:
            yield (1000 * np.sin(np.arange(4_000))).astype(np.int16)

    shutil.copytree(tiny_config.data_dir, tmp_path / "data")
    monkeypatch.setattr(espeak, "synthesize", tone)
    return DataConfig(name="digits_tiny", data_dir=str(tmp_path / "data"))


def version_folder(config):
    (manifest,) = pathlib.Path(config.data_dir).rglob("manifest.json")
    return manifest.parent


def is_rebuilt(config, split="train"):
    return len(open_splits(config)[split][0]["audio"]) == 4_000


def test_intact_data_set_is_opened_as_it_is_without_espeak(copied_config, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert not is_rebuilt(copied_config)
    assert not caplog.records


def test_data_set_is_known_by_its_classes_and_bytes(copied_config, tiny_config):
    facts = describe_dataset(copied_config)
    assert facts.class_names[:3] == ("zero", "one", "two") and len(facts.class_names) == 10
    assert facts == describe_dataset(tiny_config)
    shutil.rmtree(version_folder(copied_config))  # Built again, as tones.
    other = describe_dataset(copied_config)
    assert other.class_names == facts.class_names
    assert other.manifest_sha256 != facts.manifest_sha256


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("digits-validation.array_record-00000-of-00001", lambda old: old[::-1], "does not match"),
        ("digits-train.array_record-00000-of-00001", lambda old: old[:-1], "has"),
        ("features.json", None, "cannot be read"),
        ("manifest.json", None, "cannot be read"),
        ("manifest.json", lambda _: b'{"files"', "is not a manifest"),
        ("manifest.json", lambda _: b'{"files": {}}', "lists no file"),
    ],
)
def test_damage_is_reported_and_rebuilt(copied_config, caplog, name, change, fault):
    path = version_folder(copied_config) / name
    content = path.read_bytes()
    path.unlink()
    if change:
        path.write_bytes(change(content))
    # Whichever split is opened, all files are checked.
    assert is_rebuilt(copied_config, "test")
    warning = next(r for r in caplog.records if "damaged" in r.getMessage())
    assert f"{name} {fault}" in warning.getMessage() and warning.levelname == "WARNING"
    caplog.clear()
    assert is_rebuilt(copied_config)
    assert not caplog.records


@pytest.mark.parametrize("damaged", ["features.json", "manifest.json"])
@pytest.mark.parametrize("name", ["notes.md", "sub"])
def test_what_is_no_part_of_a_data_set_is_kept(copied_config, damaged, name):
    folder = version_folder(copied_config)
    (folder / damaged).unlink()
    (folder / name).mkdir() if name == "sub" else (folder / name).write_text("mine")
    with pytest.raises(ValueError, match=f"made again but holds '{name}', which .* move that away"):
        is_rebuilt(copied_config)
    (folder / name).rename(folder.parent / "incomplete.mine")
    if name == "notes.md":
        assert is_rebuilt(copied_config)
        assert (folder.parent / "incomplete.mine").read_text() == "mine"


# Builds the tiny digits, or seems to. Without TFDS, so that the process starts in an instant.
BUILD = """
import logging, pathlib, sys, time
from poolformer_jax.data.builders import folders

def make(temporary):
    logging.info("Building")
    (temporary / "digits-train.array_record-00000-of-00001").write_bytes(b"half of it")
    time.sleep(float(sys.argv[2]))
    folders.write_manifest(temporary)
    return temporary.rename(temporary.parent / "made")

logging.basicConfig(level=logging.INFO)
folders.ensure_complete(pathlib.Path(sys.argv[1]), make)
"""


def start_build(config, *, seconds):
    folder = prepare.location(config)
    command = [sys.executable, "-c", BUILD, folder, str(seconds)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_killed_build_is_cleaned_up_and_rebuilt(copied_config, tmp_path, caplog):
    config = dataclasses.replace(copied_config, data_dir=str(tmp_path / "killed"))
    process = start_build(config, seconds=600)
    while not list((tmp_path / "killed").rglob("*array_record*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert is_rebuilt(config)
    assert any("was interrupted" in record.getMessage() for record in caplog.records)
    assert not list((tmp_path / "killed").rglob("incomplete.*"))


def test_two_processes_build_once(tmp_path):
    config = DataConfig(name="digits_tiny", data_dir=str(tmp_path))
    # Long enough for the other process to arrive.
    processes = [start_build(config, seconds=0.5) for _ in range(2)]
    logs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs
    assert sum("Building" in log for log in logs) == 1
    assert sum("Waiting for another process" in log for log in logs) == 1


def test_unwritable_data_dir_is_reported(tmp_path):
    (tmp_path / "file").touch()
    config = DataConfig(name="digits_tiny", data_dir=str(tmp_path / "file" / "data"))
    with pytest.raises(ValueError, match=r"cannot write .*/file/data.* choose a writable folder"):
        open_splits(config)["train"]


def test_default_data_dir_is_the_cache_folder(copied_config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "data").rename(tmp_path / "poolformer_jax")
    assert not is_rebuilt(DataConfig(name="digits_tiny"))
