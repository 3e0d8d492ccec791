"""Checks shapes and types of every call into the package while the tests run.

Arrays of different rank or type never meet without a word in the code that says so.
"""

import gc
import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The many tiny programs of a test run once each: compile with few optimisations, without code
# written through MLIR, and in one piece. Together this halves the tests' time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
QUICK_COMPILATION = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
# Threads of a product that wait for a core keep the others from theirs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Several virtual devices, so that sharding is tested in-process.
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), QUICK_COMPILATION, EIGHT_DEVICES]
)

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("poolformer_jax", "beartype.beartype")
# What is imported and compiled stays: looking through all of it for garbage takes time.
gc.set_threshold(20_000, 20, 20)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests that take steps with Optax, whose optimisers add counters to floats.
MIXED_TYPES = (
    "tests/experiment/",
    "tests/faults/",
    "tests/launch/",
    "tests/training/",
    "tests/classifier/test_objective.py",
    "tests/models/test_any_model.py",
    "tests/sampling/test_conditioning.py",
)


def pytest_runtest_setup(item):
    """Before the fixtures, so that what they compile serves the test too."""
    promotion = "standard" if item.nodeid.startswith(MIXED_TYPES) else "strict"
    jax.config.update("jax_numpy_dtype_promotion", promotion)


def pytest_configure(config):
    """Lets all processes of a session share what they compile: most of the tests' time."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        config.compilation_cache = tempfile.mkdtemp(prefix="poolformer_tests_")
        settings = {
            "jax_compilation_cache_dir": config.compilation_cache,
            "jax_persistent_cache_min_compile_time_secs": 0.3,
        }
        for name, value in settings.items():
            jax.config.update(name, value)
            os.environ[name.upper()] = str(value)


def pytest_unconfigure(config):
    if hasattr(config, "compilation_cache"):
        shutil.rmtree(config.compilation_cache, ignore_errors=True)


@pytest.fixture
def all_optimizations():
    """Compiles as users do, for tests of what programs cost."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def interpreted_kernels(monkeypatch):
    """Lets kernels run here, as plain programs; they compile faster without unrolled loops."""
    from poolformer_jax.ops import scan_pallas_tpu

    monkeypatch.setattr(scan_pallas_tpu, "interpret_kernels", lambda: True)
    monkeypatch.setattr(scan_pallas_tpu, "STEPS_UNROLLED", 1)
    monkeypatch.setattr(scan_pallas_tpu, "TILES_UNROLLED", 1)


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    """A configuration of 80 / 20 / 20 spoken digits, built once per session; to read only."""
    pytest.importorskip("espeakng_loader")
    from poolformer_jax.data.config import DataConfig
    from poolformer_jax.data.source import open_splits

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # Of all workers: one builds, the others wait.
    config = DataConfig(name="digits_tiny", data_dir=str(folder / "data"))
    open_splits(config)["train"]
    return config


@pytest.fixture
def tpu_compiler(all_optimizations):
    """Lets a test compile for TPU topologies, in this process."""
    pytest.importorskip("libtpu", reason="needs libtpu: pip install -e '.[tpu]'")
    from poolformer_jax.aot.chips import prepare_environment

    prepare_environment()
    # What was compiled for a machine that is not there cannot be loaded again.
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A bucket in the memory of this process, empty, under gs:// names."""
    import fsspec

    from tests.memory_bucket import Bucket

    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    monkeypatch.setattr(Bucket, "down", False)
    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    return Bucket
