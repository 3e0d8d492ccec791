"""The lower bounds of setup.py are the versions that .ci/oldest.txt pins for the tests."""

import pathlib
import runpy
from unittest import mock

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = pathlib.Path(__file__).parent.parent


def lowest(requirement: Requirement) -> Version:
    (version,) = (s.version for s in requirement.specifier if s.operator in (">=", "=="))
    return Version(version)


def test_lower_bounds_are_what_is_tried():
    lines = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line[0] != "#"]
    # Of two pins of a package the first is the oldest, the second for Pythons that it predates.
    pins = {pin.name: lowest(pin) for pin in reversed(requirements)}
    assert pins.pop("jaxlib") == pins["jax"]

    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    arguments = setup.call_args.kwargs
    required = [*arguments["install_requires"], *arguments["extras_require"]["test"]]
    assert {bound.name: lowest(bound) for bound in map(Requirement, required)} == pins
