import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from poolformer_jax.data.builders import espeak, prepare
from poolformer_jax.data.config import DATASETS, DataConfig

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
    return len(prepare.open_splits(config)[split][0]["audio"]) == 4_000


def test_intact_data_set_is_opened_as_it_is(copied_config, caplog):
    assert not is_rebuilt(copied_config)
    assert not caplog.records


def test_opening_needs_no_espeak(copied_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert not is_rebuilt(copied_config)


def test_data_set_is_known_by_its_classes_and_bytes(copied_config, tiny_config):
    facts = prepare.describe_dataset(copied_config)
    assert facts.class_names[:3] == ("zero", "one", "two") and len(facts.class_names) == 10
    assert facts == prepare.describe_dataset(tiny_config)
    shutil.rmtree(version_folder(copied_config))  # Built again, as tones.
    other = prepare.describe_dataset(copied_config)
    assert other.class_names == facts.class_names
    assert other.manifest_sha256 != facts.manifest_sha256


def flip_byte(folder):
    path = folder / "digits-validation.array_record-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(folder):
    path = folder / "digits-train.array_record-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-1])


def remove_features(folder):
    (folder / "features.json").unlink()


def remove_manifest(folder):
    (folder / "manifest.json").unlink()


def garble_manifest(folder):
    (folder / "manifest.json").write_text('{"files"')


def empty_manifest(folder):
    (folder / "manifest.json").write_text(json.dumps({"files": {}}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (flip_byte, "digits-validation.array_record-00000-of-00001 does not match"),
        (truncate, "digits-train.array_record-00000-of-00001 has"),
        (remove_features, "features.json cannot be read"),
        (remove_manifest, "manifest.json cannot be read"),
        (garble_manifest, "manifest.json is not a manifest"),
        (empty_manifest, "manifest.json lists no file"),
    ],
)
def test_damage_is_reported_and_rebuilt(copied_config, caplog, damage, named):
    damage(version_folder(copied_config))
    # Whichever split is opened, all files are checked.
    assert is_rebuilt(copied_config, "test")
    warning = next(r for r in caplog.records if "damaged" in r.getMessage())
    assert named in warning.getMessage() and warning.levelname == "WARNING"
    caplog.clear()
    assert is_rebuilt(copied_config)
    assert not caplog.records


def test_killed_build_is_cleaned_up_and_rebuilt(copied_config, tmp_path, caplog):
    data_dir = tmp_path / "killed"
    code = f"""
from poolformer_jax.data.builders.prepare import open_splits
from poolformer_jax.data.config import DataConfig
open_splits(DataConfig(name="digits_tiny", data_dir={str(data_dir)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while not list(data_dir.rglob("incomplete.*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert is_rebuilt(DataConfig(name="digits_tiny", data_dir=str(data_dir)))
    assert any("build was interrupted" in record.getMessage() for record in caplog.records)
    assert not list(data_dir.rglob("incomplete.*"))


def test_two_processes_build_once(tmp_path):
    code = f"""
import time
import numpy as np
import logging
from poolformer_jax.data.builders import espeak
from poolformer_jax.data.builders.prepare import open_splits
from poolformer_jax.data.config import DataConfig

def tone(utterances, *, max_samples):
    time.sleep(0.5)  # Long enough for the other process to arrive.
    for _ in utterances:
        yield np.full(4_000, 1_000, np.int16)

espeak.synthesize = tone
logging.basicConfig(level=logging.INFO)
open_splits(DataConfig(name="digits_tiny", data_dir={str(tmp_path)!r}))
"""
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    logs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs
    assert sum("Building" in log for log in logs) == 1


def test_unwritable_data_dir_is_reported(tmp_path):
    (tmp_path / "file").touch()
    config = DataConfig(name="digits_tiny", data_dir=str(tmp_path / "file" / "data"))
    with pytest.raises(ValueError, match=r"cannot write .*/file/data.* choose a writable folder"):
        prepare.open_splits(config)["train"]


def test_default_data_dir_is_the_cache_folder(copied_config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "data").rename(tmp_path / "poolformer_jax")
    assert not is_rebuilt(DataConfig(name="digits_tiny"))


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_has_a_recipe_and_a_folder_of_its_own(name):
    folders = {prepare._relative_folder(DataConfig(name=other)) for other in DATASETS}
    assert len(folders) == len(DATASETS)
    assert prepare._relative_folder(DataConfig(name=name)).startswith(name.split("_")[0])
