"""A configuration that compiles at once, and benchmarks called in this process."""

import json
import pathlib
from types import ModuleType
from typing import Any

import jax
import pytest

from launch import command_line

TINY = """
from poolformer_jax.experiment import default_config

def get_config():
    config = default_config()
    config.model.width = 4
    config.model.mixer.recurrent_width = 4
    config.model.mixer.num_gate_blocks = 1
    config.model.pool_factors = (2,)
    config.model.layers = (1, 1)
    config.data.name = "digits"
    config.data.seq_len = 16
    return config
"""


@pytest.fixture
def tiny(tmp_path) -> str:
    """The file of the configuration."""
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(autouse=True)
def mixed_types():
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # Optax adds counters to floats.


@pytest.fixture
def tables_of(tmp_path):
    """Runs a benchmark; returns the tables that it writes."""

    def run(benchmark: ModuleType, *arguments: str) -> dict[str, Any]:
        name = benchmark.__name__.rpartition(".")[2]
        out = pathlib.Path(tmp_path, "out")
        command_line.call(benchmark.main, benchmark._FLAGS, [*arguments, f"--out={out}"])
        return json.loads((out / f"{name}.json").read_text())["tables"]

    return run
