"""Imports go downward only: each room of the package names the rooms below it that it may use."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Room -> the rooms of poolformer_jax it may import, besides itself. An import anywhere in a file
# counts, also inside a function or under TYPE_CHECKING: a layer that needs one is misplaced.
GROUND = {
    "typing",
    "buckets",
    "files",
    "npz",
    "own_files",
    "config_checks",
    "disk_full",
    "interruption",
    "lock",
    "mesh_config",
    "sharding",
}
BELOW_MODELS = GROUND | {"audio", "ops", "layers"}
ALLOWED_ROOMS = {
    "typing": set(),
    "buckets": set(),
    "files": {"buckets"},
    "npz": {"buckets", "files"},
    "own_files": {"buckets", "files"},
    "config_checks": {"files"},
    "disk_full": {"buckets"},
    "interruption": set(),
    "lock": {"buckets", "disk_full"},
    "mesh_config": {"config_checks"},
    "sharding": {"mesh_config"},
    "aot": set(),
    "audio": {"buckets", "files"},
    "ops": {"typing", "config_checks", "sharding"},
    "layers": {"typing", "config_checks", "ops"},
    "models": BELOW_MODELS,
    "data": GROUND | {"audio"},
    "training": GROUND | {"ops", "models"},
    "sampling": BELOW_MODELS | {"models"},
    "classifier": GROUND | {"audio", "training", "data"},
    "evals": BELOW_MODELS | {"models", "data", "sampling", "classifier"},
    "pages": GROUND | {"audio", "data", "training", "sampling", "classifier", "evals"},
    "live": {"audio"},
    "experiment": BELOW_MODELS
    | {"aot", "models", "data", "training", "sampling", "classifier", "evals", "pages", "live"},
}

# Room -> the only third-party packages it may import; rooms not named here are free.
ALLOWED_PACKAGES = {
    "typing": {"jax", "jaxtyping", "numpy"},
    "aot": {"jax", "jaxlib", "numpy"},
    "audio": {"jaxtyping", "numpy"},
    "ops": {"jax", "jaxtyping", "numpy"},
}

FORBIDDEN_PACKAGES = {"tensorflow", "torch"}
# The one exception writes the checkpoints that the importer must read; its tests are skipped where
# PyTorch is not installed.
FORBIDDEN_EXCEPT = {("tests.classifier.torch_import.torch_reference", "torch")}
FIRST_PARTY_ABOVE = {"launch", "configs", "benchmarks", "tests"}


def imported_names(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Returns the absolute dotted name of everything that `source` imports, in order.

    Args:
      source: Text of a Python file.
      module: Its dotted name, against which relative imports are resolved.
      is_package: Whether the file is an `__init__.py`.
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, *filter(None, [node.module])])
            # `from poolformer_jax import layers` names a room in the alias.
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Returns one sentence for each import in `source` that goes the wrong way."""
    found = []
    top, *rest = module.split(".")
    room = rest[0] if top == "poolformer_jax" and rest else None
    if room is not None and room not in ALLOWED_ROOMS:
        found.append(f"{module}: room {room!r} has no rule in tests/test_import_layers.py")
    for name in imported_names(source, module, is_package=is_package):
        package, *path = name.split(".")
        if package in FORBIDDEN_PACKAGES and (module, package) not in FORBIDDEN_EXCEPT:
            found.append(f"{module} imports {name}: {package} is kept out of this project")
        elif top != "poolformer_jax":
            continue
        elif package in FIRST_PARTY_ABOVE:
            found.append(f"{module} imports {name}, which is above the package")
        elif package == "poolformer_jax":
            target = path[0] if path else None
            if target in {room, "__version__", None}:
                continue
            if target not in ALLOWED_ROOMS.get(room or "", set()):
                found.append(f"{module} imports {name}: {room or top} may not use {target}")
        elif (
            room in ALLOWED_PACKAGES
            and package not in ALLOWED_PACKAGES[room] | sys.stdlib_module_names
        ):
            allowed = ", ".join(sorted(ALLOWED_PACKAGES[room]))
            found.append(f"{module} imports {name}: {room} may only use {allowed}")
    return found


def violations_of_file(path: pathlib.Path) -> list[str]:
    """Returns the violations of a file of this repository."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    return violations(path.read_text(encoding="utf-8"), module, is_package=is_package)


@pytest.mark.parametrize("tree", ["poolformer_jax", "launch", "configs", "benchmarks", "tests"])
def test_imports_go_downward(tree: str):
    paths = sorted((ROOT / tree).rglob("*.py"))
    assert paths or tree == "configs", f"no Python file under {tree}"
    found = [sentence for path in paths for sentence in violations_of_file(path)]
    assert not found, "\n".join(found)


def test_rules_have_no_cycle():
    """A room can be peeled off whenever all it uses is gone; a cycle would leave some over."""
    rest = dict(ALLOWED_ROOMS)
    while rest:
        free = [room for room, below in rest.items() if not below & rest.keys()]
        assert free, f"rooms that import each other: {sorted(rest)}"
        for room in free:
            del rest[room]


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("poolformer_jax.ops.scan", "import poolformer_jax.layers.rg_lru", "ops may not use layer"),
        ("poolformer_jax.ops.scan", "from poolformer_jax import layers", "ops may not use layers"),
        ("poolformer_jax.ops.scan", "from ..models import backbone", "ops may not use models"),
        ("poolformer_jax.ops.scan", "import flax.linen as nn", "ops may only use jax, jaxtyping"),
        ("poolformer_jax.audio.wav", "def f():\n  import jax", "audio may only use"),
        ("poolformer_jax.training.loop", "from poolformer_jax.evals import x", "not use evals"),
        ("poolformer_jax.training.loop", "import poolformer_jax.data.builders", "not use data"),
        ("poolformer_jax.data.pipeline", "import poolformer_jax.models", "not use models"),
        (
            "poolformer_jax.models.poolformer.config",
            "from launch import train",
            "above the package",
        ),
        ("poolformer_jax.models.registry", "import configs.sc09", "above the package"),
        ("poolformer_jax.misc.things", "import os", "has no rule"),
        ("poolformer_jax", "from poolformer_jax import ops", "may not use ops"),
        ("launch.train", "if True:\n  import tensorflow as tf", "tensorflow is kept out"),
        ("tests.test_x", "from torch.nn import functional", "torch is kept out"),
        (
            "tests.classifier.torch_import.torch_reference",
            "import tensorflow",
            "tensorflow is kept out",
        ),
    ],
)
def test_checker_finds_a_bad_import(module: str, source: str, complaint: str):
    (sentence,) = violations(source, module, is_package="." not in module)
    assert complaint in sentence


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "poolformer_jax.layers.blocks",
            "from . import rg_lru\nfrom ..ops.scan import linear_scan",
        ),
        (
            "poolformer_jax.evals.likelihood.evaluator",
            "import poolformer_jax.models, poolformer_jax.data",
        ),
        ("poolformer_jax.data.builders.sc09", "import tensorflow_datasets as tfds"),
        ("poolformer_jax.data.pipeline", "import torchaudio_like_name, os.path"),
        ("launch.train", "from poolformer_jax.training import loop\nimport poolformer_jax"),
        ("tests.classifier.torch_import.torch_reference", "from torch.nn import functional"),
    ],
)
def test_checker_accepts_a_good_import(module: str, source: str):
    assert violations(source, module) == []


def test_relative_imports_resolve_from_modules_and_packages():
    source = "from . import a\nfrom ..b import c"
    assert imported_names(source, "p.q.r") == ["p.q.a", "p.b.c"]
    assert imported_names(source, "p.q.r", is_package=True) == ["p.q.r.a", "p.q.b.c"]
