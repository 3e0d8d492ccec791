"""Names of chips, and an environment that can't work."""

import importlib.util
import os

import pytest

from poolformer_jax.aot import chips


def test_chips_are_found_by_their_topologies():
    assert chips.chip_of("v5e:2x2") is chips.chip_of("v5e") is chips.CHIPS["v5e"]
    assert chips.chip_of("v4:2x2x1").hbm_bytes == 30.75 * 2**30


@pytest.mark.parametrize("name", ["v9:2x2", "v5", "", "h100"])
def test_unknown_chips_are_refused_with_those_that_are_known(name):
    with pytest.raises(ValueError, match="known: v4, v5e, v5p, v6e"):
        chips.describe_topology(name)


def test_missing_libtpu_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[tpu\]'"):
        chips.prepare_environment()


def test_variables_that_come_too_late_are_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(chips, "_libtpu_is_started", lambda: True)
    monkeypatch.setattr(os, "environ", chips.ENVIRONMENT | {"JAX_PLATFORMS": "cpu"})
    chips.prepare_environment()
    del os.environ["TPU_SKIP_MDS_QUERY"]
    with pytest.raises(RuntimeError, match="started without TPU_SKIP_MDS_QUERY; call prepare_env"):
        chips.prepare_environment()


def test_variables_of_the_user_are_kept(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(chips, "_libtpu_is_started", lambda: False)
    monkeypatch.setattr(os, "environ", {"TPU_ACCELERATOR_TYPE": "mine"})
    chips.prepare_environment()
    assert os.environ["TPU_ACCELERATOR_TYPE"] == "mine"
    assert os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] == "1"
    assert os.environ["JAX_PLATFORMS"] == "cpu"
