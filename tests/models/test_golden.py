"""The model reproduces the reference: logits, loss and gradients of every golden file."""

import dataclasses
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
from tests.models.golden import Golden, read_golden

DIRECTORY = os.environ.get("POOLFORMER_GOLDEN_DIR")
FILES = sorted(pathlib.Path(DIRECTORY).glob("golden*.npz")) if DIRECTORY else []
if DIRECTORY and not FILES:
    raise FileNotFoundError(f"POOLFORMER_GOLDEN_DIR={DIRECTORY} has no golden*.npz")

pytestmark = pytest.mark.skipif(
    not DIRECTORY, reason="set POOLFORMER_GOLDEN_DIR to a directory of golden*.npz files"
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A golden file and what the model makes of it."""

    golden: Golden
    logits: np.ndarray
    bits: np.ndarray
    gradients: dict


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def run(request):
    """Logits and gradients from one program: compiling it takes nearly all of the time."""
    golden = read_golden(request.param)

    def loss(params):
        logits, _ = Poolformer(golden.config).apply({"params": params}, golden.codes)
        bits = clip_bits(logits, golden.codes, lengths=golden.lengths)
        return jnp.sum(bits) / jnp.sum(golden.lengths), (logits, bits)

    gradients, (logits, bits) = jax.jit(jax.grad(loss, has_aux=True))(golden.params)
    return Run(golden, np.asarray(logits), np.asarray(bits), flatten_dict(gradients, sep="/"))


def test_golden_logits(run):
    error = np.abs(run.logits - run.golden.logits).max()
    print(f"max |logit error| {error:.2e} at scale {np.abs(run.golden.logits).max():.2f}")
    # Both sides are float32 with about ten layers of rounding.
    assert error <= 2e-5


def test_golden_logits_of_oracle(run):
    golden = run.golden
    logits = oracle.forward(golden.config, golden.params, np.asarray(golden.codes))
    # float64 against the reference's float32.
    np.testing.assert_allclose(logits, golden.logits, atol=2e-5, rtol=0)
    assert oracle.bits(logits, golden.codes, golden.lengths) == pytest.approx(
        golden.loss_bits, abs=1e-6
    )


def test_golden_loss(run):
    # The mean is taken in float64, as in evaluation: one float32 ulp at 9 bits is 1e-6.
    loss = np.sum(run.bits, dtype=np.float64) / np.sum(np.asarray(run.golden.lengths))
    print(f"loss {loss:.7f}, error {abs(loss - run.golden.loss_bits):.1e}")
    assert loss == pytest.approx(run.golden.loss_bits, abs=1e-6)


def test_golden_gradients(run):
    if not run.golden.gradients:
        pytest.skip("the file has no gradients")
    assert set(run.gradients) == set(run.golden.gradients)
    worst = 0.0
    for path, expected in run.golden.gradients.items():
        error = np.abs(np.asarray(run.gradients[path]) - expected).max() / np.abs(expected).max()
        worst = max(worst, error)
        assert error <= 1e-4, f"gradient of {path} differs by {error:.1e} of its largest entry"
    print(f"worst relative gradient error {worst:.1e}")
