"""The lower bounds of setup.py are the versions that .ci/oldest.txt pins for the tests."""

import importlib.metadata
import pathlib

from packaging.requirements import Requirement
from packaging.version import Version

PINS = pathlib.Path(__file__).parent.parent / ".ci" / "oldest.txt"
# Extras of tools, and of what only a TPU, a bucket or one test needs.
NOT_TRIED = ("lint", "tpu", "gcs", "torch")


def lowest(requirement: Requirement) -> Version:
    (version,) = (s.version for s in requirement.specifier if s.operator in (">=", "=="))
    return Version(version)


def test_lower_bounds_are_what_is_tried():
    lines = [line for line in PINS.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    # Two pins of a package: the first is the oldest, the second for Pythons that it does not know.
    pins = {pin.name: lowest(pin) for pin in map(Requirement, reversed(lines))}
    assert pins.pop("jaxlib") == pins["jax"]

    required = map(Requirement, importlib.metadata.requires("poolformer_jax") or [])
    bounds = {
        requirement.name: lowest(requirement)
        for requirement in required
        if not any(f'"{extra}"' in str(requirement.marker) for extra in NOT_TRIED)
    }
    assert bounds == pins, "if setup.py is newer than the installation: pip install -e ."
