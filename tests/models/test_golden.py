"""The model reproduces the reference: logits, loss and gradients of every golden file."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from poolformer_jax.models.poolformer import Poolformer
from poolformer_jax.ops.likelihood import clip_bits
from tests import oracle
from tests.models.golden import read_golden

DIRECTORY = os.environ.get("POOLFORMER_GOLDEN_DIR")
FILES = sorted(pathlib.Path(DIRECTORY).glob("golden*.npz")) if DIRECTORY else []
if DIRECTORY and not FILES:
    raise FileNotFoundError(f"POOLFORMER_GOLDEN_DIR={DIRECTORY} has no golden*.npz")

pytestmark = pytest.mark.skipif(
    not DIRECTORY, reason="set POOLFORMER_GOLDEN_DIR to a directory of golden*.npz files"
)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def golden(request):
    return read_golden(request.param)


def test_golden_logits(golden):
    logits, _ = Poolformer(golden.config).apply({"params": golden.params}, golden.codes)
    error = np.abs(np.asarray(logits) - golden.logits).max()
    print(f"max |logit error| {error:.2e} at scale {np.abs(golden.logits).max():.2f}")
    # Both sides are float32 with about ten layers of rounding.
    assert error <= 2e-5


def test_golden_logits_of_oracle(golden):
    logits = oracle.forward(golden.config, golden.params, np.asarray(golden.codes))
    # float64 against the reference's float32.
    np.testing.assert_allclose(logits, golden.logits, atol=2e-5, rtol=0)
    assert oracle.bits(logits, golden.codes, golden.lengths) == pytest.approx(
        golden.loss_bits, abs=1e-6
    )


def test_golden_loss_and_gradients(golden):
    def loss(params):
        logits, _ = Poolformer(golden.config).apply({"params": params}, golden.codes)
        bits = clip_bits(logits, golden.codes, lengths=golden.lengths)
        return jnp.sum(bits) / jnp.sum(np.asarray(golden.lengths)), bits

    gradients, bits = jax.jit(jax.grad(loss, has_aux=True))(golden.params)
    # The mean is taken in float64, as in evaluation: one float32 ulp at 9 bits is 1e-6.
    value = np.sum(np.asarray(bits, np.float64)) / np.sum(np.asarray(golden.lengths))
    print(f"loss {value:.7f}, error {abs(value - golden.loss_bits):.1e}")
    assert value == pytest.approx(golden.loss_bits, abs=1e-6)
    gradients = flatten_dict(gradients, sep="/")
    worst = 0.0
    for path, expected in golden.gradients.items():
        error = np.abs(np.asarray(gradients[path]) - expected).max() / np.abs(expected).max()
        worst = max(worst, error)
        assert error <= 1e-4, f"gradient of {path} differs by {error:.1e} of its largest entry"
    if golden.gradients:
        assert set(gradients) == set(golden.gradients)
        print(f"worst relative gradient error {worst:.1e}")
