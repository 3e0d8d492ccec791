"""What is installed without a clone: the package, its configurations and the binaries."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]

PROGRAM = """
import sys
import poolformer_jax
from poolformer_jax import experiment as ex

assert poolformer_jax.__file__.startswith(sys.argv[1]), poolformer_jax.__file__
assert {"sc09", "digits", "digits_classifier", "ablations/digits_lru"} <= set(ex.named_configs())
for name in ex.named_configs():
    kind = ex.ClassifierExperiment if name.endswith("_classifier") else ex.Experiment
    name += ":7m" if name == "scaling" else ""
    ex.make_experiment(ex.named_config(name), kind)
assert "jax" not in sys.modules
assert all(hasattr(ex, name) for name in ex.__all__)
"""


def test_wheel_brings_the_named_configurations_and_the_binaries(tmp_path):
    major, minor = map(int, importlib.metadata.version("setuptools").split(".")[:2])
    if (major, minor) < (70, 1):
        pytest.importorskip("wheel", reason="setuptools before 70.1 builds no wheels by itself")
    source = tmp_path / "source"
    for name in ("poolformer_jax", "configs", "launch"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        + ["--no-index", f"--wheel-dir={tmp_path}", str(source)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(installed)
    (metadata,) = installed.glob("*.dist-info")
    assert (metadata / "top_level.txt").read_text().split() == ["launch", "poolformer_jax"]
    names = {path.name for path in installed.iterdir()}
    assert names == {"poolformer_jax", "launch", metadata.name}
    package = installed / "poolformer_jax"
    assert (package / "live" / "page.html").is_file() and (package / "live" / "page.js").is_file()
    card = package / "pretrained" / "digits_classifier" / "README.md"
    assert (card.parents[1] / "digits" / "parameters.npz").is_file()
    assert "Not for" in card.read_text() and (card.parent / "classifier.npz").stat().st_size < 4e6
    for program in (["-c", PROGRAM, str(installed)], ["-m", "launch.train", "--help"]):
        subprocess.run(
            [sys.executable, *program],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(installed)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
